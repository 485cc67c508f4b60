"""What OWM promises: the right inputs reach P, steps leave them alone, the first task is ordinary training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import Tensor, nn

from nlpcl.benchmarks._images import GREY, Images, ImageTask, image_benchmark_from_tasks
from nlpcl.models import ContinualModel, build_model
from nlpcl.models.base import unprotected
from nlpcl.strategies.ncl import NCL
from nlpcl.strategies.owm import OWM, OWMPlugin, final_alphas, joined
from tests.helpers.messages import refused
from tests.helpers.plugins import plugin_of

OPTIONS: dict[str, dict[str, Any]] = {
    "bert_adapter": {"adapter_size": 8},
    "bert": {},
    "bert_frozen": {"layers": 2, "hidden": 12, "filters": 6},
}


def model_of(benchmark: Any, tiny: str, backbone: str = "bert_adapter") -> ContinualModel:
    torch.manual_seed(1)
    return build_model(benchmark, backbone=backbone, encoder=tiny, **OPTIONS[backbone])


def build(cls: Any, model: ContinualModel, optimizer: str = "AdamW", **options: Any) -> Any:
    trainable = [p for p in model.parameters() if p.requires_grad]
    template: Any = (
        torch.optim.AdamW(trainable, lr=5e-3, weight_decay=0.1)
        if optimizer == "AdamW"
        else torch.optim.SGD(trainable, lr=0.05, momentum=0.9)
    )
    return cls(model=model, optimizer=template, train_mb_size=8, train_epochs=2, **options)


def images(number: int) -> ImageTask:
    generator = torch.Generator().manual_seed(number)

    def some(n: int) -> Images:
        return Images(torch.rand(n, 1, 16, 16, generator=generator), range(n), [i % 2 for i in range(n)], GREY)

    return ImageTask(f"task{number}", ("a", "b"), some(12), some(4), some(4))


@pytest.fixture
def image_benchmark() -> Any:
    return image_benchmark_from_tasks([images(0), images(1)], name="tiny", scenario="til")


def real_inputs(module: Any, x: Tensor, length: int) -> Tensor:
    """The inputs (n, d) of one example x, by slicing; only what lies within a text of `length` tokens."""
    if isinstance(module, nn.Linear):
        rows = x[:length] if x.dim() == 2 else x[None]
    elif isinstance(module, nn.Conv1d):
        size = module.kernel_size[0]
        rows = torch.stack([x[:, i : i + size].flatten() for i in range(max(1, length - size + 1))])
    else:
        high, wide = module.kernel_size
        places = [(i, j) for i in range(x.shape[1] - high + 1) for j in range(x.shape[2] - wide + 1)]
        rows = torch.stack([x[:, i : i + high, j : j + wide].flatten() for i, j in places])
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def watch(plugin: OWMPlugin, seen: dict[int, Tensor]) -> list[Any]:
    """Hooks that put the inputs of each site's module in `seen`."""

    def note(i: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            seen[i] = args[0].detach().clone()

        return hook

    return [site.module.register_forward_pre_hook(note(i)) for i, site in enumerate(plugin.sites)]


def loop_means(plugin: OWMPlugin, model: ContinualModel, data: Any, groups: int) -> list[Tensor]:
    """Example by example: mean over its real positions; then the mean of each group of examples."""
    model.eval()
    seen: dict[int, Tensor] = {}
    hooks = watch(plugin, seen)
    found: list[list[list[Tensor]]] = [[[] for _ in range(groups)] for _ in plugin.sites]
    for i in range(len(data)):
        x, _, task = data[i]
        with torch.no_grad():
            model(x[None], int(task))
        length = int(x[1].sum()) if x.dtype == torch.int64 else 0
        for s, site in enumerate(plugin.sites):
            found[s][i * groups // len(data)].append(real_inputs(site.module, seen[s][0], length).mean(0))
    for hook in hooks:
        hook.remove()
    return [torch.stack([torch.stack(group).mean(0) for group in site]) for site in found]


def means_of(plugin: OWMPlugin, strategy: Any, experience: Any) -> list[Tensor]:
    strategy.experience = experience
    return plugin.task_means(strategy)


@pytest.mark.parametrize("padding", ["dynamic", "fixed"])
@pytest.mark.parametrize("backbone", OPTIONS)
def test_means_equal_a_loop_whatever_the_padding(backbone: str, padding: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3), 20)
    strategy = build(OWM, model_of(benchmark, tiny, backbone), owm_samples=3)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    strategy.model.backbone.encoder.padding = padding
    means = means_of(plugin_of(strategy, OWMPlugin), strategy, benchmark.train_stream[0])
    expected = loop_means(plugin_of(strategy, OWMPlugin), strategy.model, benchmark.train_stream[0].dataset, 3)
    for mean, reference in zip(means, expected, strict=True):
        torch.testing.assert_close(mean.float(), reference, atol=1e-5, rtol=1e-5)
    assert all(not site.module._forward_pre_hooks for site in plugin_of(strategy, OWMPlugin).sites)


def test_means_of_images_equal_a_loop(image_benchmark: Any) -> None:
    strategy = build(OWM, build_model(image_benchmark, hidden=10), owm_samples=50)  # 50: more than there are examples
    strategy.train(image_benchmark.train_stream[0], eval_streams=[])
    means = means_of(plugin_of(strategy, OWMPlugin), strategy, image_benchmark.train_stream[0])
    expected = loop_means(plugin_of(strategy, OWMPlugin), strategy.model, image_benchmark.train_stream[0].dataset, 12)
    for mean, reference in zip(means, expected, strict=True):
        torch.testing.assert_close(mean.float(), reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", OPTIONS)
@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_layers_answer_earlier_tasks_as_before(scenario: str, backbone: str, benchmark_of: Any, tiny: str) -> None:
    """With a small alpha what a whole task does to a layer is 0 on what P was fed, weight decay included."""
    benchmark = benchmark_of(scenario, (2, 2))
    strategy = build(OWM, model_of(benchmark, tiny, backbone), alpha=1e-6, owm_samples=2)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    means = means_of(plugin_of(strategy, OWMPlugin), strategy, benchmark.train_stream[0])
    before = [projector.values() for projector in plugin_of(strategy, OWMPlugin).projectors]
    rest = unprotected(strategy.model.backbone)
    kept = [p.detach().clone() for p in rest]
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    changes = [
        projector.values() - old
        for projector, old in zip(plugin_of(strategy, OWMPlugin).projectors, before, strict=True)
    ]
    for change, mean in zip(changes, means, strict=True):
        assert float((mean.float() @ change.T).abs().max()) < 1e-4
        assert bool((change != 0).any())
    assert max(float(change.abs().max()) for change in changes) > 1e-2
    assert all(torch.equal(p, old) and not p.requires_grad for p, old in zip(rest, kept, strict=True))


def test_the_first_task_is_naive_training(benchmark_of: Any, tiny: str) -> None:
    """And feeding P draws no random number, so the next task sees the batches that NCL's sees."""
    benchmark = benchmark_of("til", (2, 3))
    states = []
    for cls in (NCL, OWM):
        strategy = build(cls, model_of(benchmark, tiny))
        torch.manual_seed(2)
        strategy.train(benchmark.train_stream[0], eval_streams=[])
        states.append(([p.detach() for p in strategy.model.parameters()], torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(states[0][0], states[1][0], strict=True))
    assert torch.equal(states[0][1], states[1][1])


def test_a_smaller_alpha_forgets_less(benchmark_of: Any, tiny: str) -> None:
    """At 1e9 P stays the identity."""
    benchmark = benchmark_of("til", (2, 2))
    test = benchmark.test_stream[0].dataset
    x = torch.stack([test[i][0] for i in range(len(test))])
    drift = []
    for alpha in (1e9, 1e-3):
        strategy = build(OWM, model_of(benchmark, tiny), alpha=alpha)
        torch.manual_seed(2)
        logits = []
        for experience in benchmark.train_stream:
            strategy.train(experience, eval_streams=[])
            logits.append(strategy.model.eval()(x, 0).detach())
        drift.append(float((logits[1] - logits[0]).abs().mean()))
    assert drift[1] < 0.5 * drift[0]


class Replica(SupervisedPlugin[Any], supports_distributed=False):  # type: ignore[call-arg]
    """The original's step in plain loops, beside the plugin: what each gradient should have become."""

    def __init__(self, plugin: OWMPlugin, finals: list[float]) -> None:
        super().__init__()
        self.plugin, self.finals = plugin, finals
        self.p: list[Tensor] = []
        self.seen: dict[int, Tensor] = {}
        self.steps = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.hooks = watch(self.plugin, self.seen)
        self.done, self.total = 0, len(strategy.dataloader) * strategy.train_epochs

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.expected = []
        for i, site in enumerate(self.plugin.sites):
            module: Any = site.module
            alpha = self.finals[i] ** (self.done / self.total)
            x = self.seen[i].mean(0)  # parity: every position is real
            rows = real_inputs(module, x, x.shape[-1] - 4 if isinstance(module, nn.Conv1d) else len(x)).double()
            if isinstance(module, nn.Linear):
                rows = rows.mean(0, keepdim=True)
            if len(self.p) == i:
                self.p.append(torch.eye(rows.shape[1], dtype=torch.float64))
            for row in rows:
                k = self.p[i] @ row
                self.p[i] = self.p[i] - torch.outer(k, k) / (alpha + row @ k)
            self.expected.append(joined(module.weight.grad, module.bias.grad).double() @ self.p[i])
        self.done += 1

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        for site, projector, p, expected in zip(
            self.plugin.sites, self.plugin.projectors, self.p, self.expected, strict=True
        ):
            module: Any = site.module
            torch.testing.assert_close(projector.p, p, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                joined(module.weight.grad, module.bias.grad).double(), expected, atol=1e-5, rtol=0
            )
        self.steps += 1

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("backbone", "finals"),
    [
        ("bert_adapter", [1e-4, 1e-2] * 4),
        ("bert", [1e-4, 1e-4, 1e-2] * 2),
        ("bert_frozen", [1e-5] * 3 + [1e-4, 1e-2]),
        ("cnn", [1e-5] * 3 + [1e-4, 1e-2]),
    ],
)
def test_parity_equals_a_loop(
    backbone: str, finals: list[float], benchmark_of: Any, image_benchmark: Any, tiny: str
) -> None:
    if backbone == "cnn":
        benchmark, model = image_benchmark, build_model(image_benchmark, hidden=10)
    else:
        benchmark = benchmark_of("til", (2, 2), 16)
        model = model_of(benchmark, tiny, backbone)
    strategy = build(OWM, model, "SGD", parity=True)
    replica = Replica(plugin_of(strategy, OWMPlugin), finals)
    strategy.plugins.insert(0, replica)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    assert replica.steps == 8
    assert all(not site.module._forward_pre_hooks for site in plugin_of(strategy, OWMPlugin).sites)
    assert all(p.requires_grad for p in unprotected(strategy.model.backbone))
    assert list(final_alphas(model.backbone.sites()).values()) == finals


@pytest.mark.parametrize("parity", [False, True])
def test_plugin_works_under_avalanches_own_naive(parity: bool, benchmark_of: Any, tiny: str) -> None:
    """There the optimizer keeps its momentum; what P was fed still stays."""
    benchmark = benchmark_of("til", (2, 2))
    model = model_of(benchmark, tiny)
    plugin = OWMPlugin(model, alpha=1e-6, owm_samples=2, parity=parity)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        plugins=[plugin],
        evaluator=None,
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    means = means_of(plugin, strategy, benchmark.train_stream[0])
    before = [projector.values() for projector in plugin.projectors]
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    for projector, old, mean in zip(plugin.projectors, before, means, strict=True):
        assert not torch.equal(projector.applied, torch.eye(len(projector.p)))
        if not parity:
            assert float((mean.float() @ (projector.values() - old).T).abs().max()) < 1e-4


def test_what_is_kept_and_what_is_refused(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    mine: list[Any] = []
    strategy = build(OWM, model_of(benchmark, tiny), plugins=mine, precision="bf16")
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert strategy.kept_bytes(1)["projectors"] == 8 * 4 * (33**2 + 9**2)  # four adapters, 32 -> 8 -> 32, float64
    assert mine == []
    with refused("alpha 0"):
        OWMPlugin(strategy.model, alpha=0.0)
    with refused("owm_samples 1"):
        OWMPlugin(strategy.model, owm_samples=0)
    with pytest.raises(TypeError, match="ContinualModel"):
        build(OWM, nn.Linear(2, 2))  # type: ignore[arg-type]
