"""HAL against its equations, written as plain loops and closed forms."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.models.base import Backbone, ContinualModel, Site
from nlpcl.models.heads import TaskHeads
from nlpcl.strategies.hal import (
    HAL,
    HALPlugin,
    anchor_objective,
    first_anchors,
    running_means,
    virtual_step,
)
from tests.helpers.images import tiny_images
from tests.helpers.messages import refused
from tests.helpers.text_tasks import make_tasks
from tests.helpers.training import accuracy, train


class Pixels(Backbone):
    """The inputs as they are: with linear heads a linear model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def features(self, x: Tensor, task_labels: Any) -> Tensor:
        return x

    def sites(self) -> list[Site]:
        return []


def build(benchmark: Any, backbone: str = "mlp", cls: Any = HAL, **options: Any) -> Any:
    torch.manual_seed(1)
    sizes: dict[str, dict[str, Any]] = {
        "mlp": {"hidden": 24},
        "bert": {},
        "bert_adapter": {"adapter_size": 16},
        "bert_frozen": {"filters": 32, "dropout": 0.1},
        "bert_frozen, gru": {"net": "gru", "dropout": 0.1},
    }
    model = build_model(benchmark, backbone.split(",")[0], encoder=options.pop("encoder", None), **sizes[backbone])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.1)
    common = {"model": model, "optimizer": optimizer, "train_mb_size": 8}
    return cls(**common, **{"train_epochs": 1, "memory_share": 0.5, **options})


# --- the step


def test_virtual_step_is_one_of_sgd() -> None:
    torch.manual_seed(0)
    weights: dict[str, Tensor] = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    moved = virtual_step(weights, [torch.ones(3, 2), None], 0.1)
    torch.testing.assert_close(moved["a"], weights["a"] - 0.1)
    assert moved["b"] is weights["b"]


@pytest.mark.parametrize("second_order", [True, False])
def test_change_at_anchors_of_a_linear_model(second_order: bool) -> None:
    """For logits V x + b, CE has dV = (softmax - onehot)' x / n, so an anchor's logits change by -a (dV e + db)."""
    torch.manual_seed(0)
    model, rate = ContinualModel(Pixels(4), TaskHeads(4, [2, 3, 2])), 0.3
    plugin = HALPlugin(model, second_order=second_order, virtual_learning_rate=rate)
    plugin.weights = dict(model.named_parameters())
    plugin.anchors = torch.randn(5, 4)
    plugin.anchor_heads = torch.tensor([0, 0, 1, 1, 1])
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    found = plugin.anchor_loss(SimpleNamespace(model=model, loss=F.cross_entropy(model(x, 1), y)))

    weight, bias = (p.detach().clone().requires_grad_() for p in model.heads.linears[1].parameters())
    wrong = (x @ weight.T + bias).softmax(1) - F.one_hot(y, 3)
    change = -rate * (plugin.anchors[2:] @ (wrong.T @ x / 6).T + wrong.mean(0))  # head 1's; head 0 does not move
    expected = change.square().sum() / (2 * 2 + 3 * 3)
    torch.testing.assert_close(found, expected)

    head: Any = model.heads.linears[1]
    if second_order:
        gradients = torch.autograd.grad(found, [head.weight, head.bias])
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, [weight, bias]), atol=1e-6, rtol=1e-4)
    else:  # of a linear model nothing is left
        gradients = torch.autograd.grad(found, [head.weight, head.bias], materialize_grads=True)
        assert all(g.abs().max() < 1e-6 for g in gradients)


def paper_loss(model: Any, examples: list[Any], plugin: HALPlugin, fixed: Any = None) -> tuple[Tensor, list[Any]]:
    """L, by a copy that takes the step, example by example and anchor by anchor, and the gradient of that step.

    :param fixed: gradient to step by instead of the model's own.
    """
    model = deepcopy(model)
    loss = sum(F.cross_entropy(model(x[None], t), y[None]) for x, y, t in examples) / len(examples)  # type: ignore
    model.zero_grad()
    loss.backward()  # type: ignore[union-attr]
    gradient = fixed or [p.grad for p in model.parameters()]
    moved = deepcopy(model)
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p, g in zip(moved.parameters(), gradient, strict=True):
            p -= plugin.options.virtual_learning_rate * (0.0 if g is None else g)
        squares = []
        for e, t in zip(plugin.anchors, plugin.anchor_heads.tolist(), strict=True):  # type: ignore[arg-type]
            mask = torch.ones(1, len(e), dtype=torch.bool) if e.dim() == 2 else None
            old, new = (net.heads(net.backbone.features_of(e[None], mask, t), t)[0] for net in (model, moved))
            squares += [(n - o) ** 2 for n, o in zip(new, old, strict=True)]
    return loss.detach() + plugin.options.lamb * torch.stack(squares).mean(), gradient  # type: ignore[union-attr]


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("backbone", ["mlp", "bert_adapter", "bert", "bert_frozen", "bert_frozen, gru"])
def test_loss_and_gradient_of_a_step_are_those_of_the_paper(
    backbone: str, second_order: bool, tiny: str, benchmark_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loss, and its slope in a random direction by finite differences, with replay of two past tasks."""
    benchmark = tiny_images("til", (2, 3, 2)) if backbone == "mlp" else benchmark_of("til", (2, 3, 2))
    options = {"virtual_learning_rate": 0.5, "lamb": 20.0, "second_order": second_order, "anchor_steps": 2}
    strategy = train(build(benchmark, backbone, encoder=tiny, anchor_length=5, **options), benchmark, 2)
    checked = []
    ours = HALPlugin.before_backward

    def check(plugin: Any, strategy: Any, **kwargs: Any) -> None:
        if checked:
            return
        # In float64, so that differences can be taken, and without dropout.
        monkeypatch.setattr(Tensor, "float", Tensor.double)
        model, memory = strategy.model.double().eval(), plugin.memory
        plugin.means, plugin.anchors = plugin.means.double(), plugin.anchors.double()
        x, label = strategy.mb_x, strategy.mb_y
        if x.is_floating_point():
            x, memory.columns["x"] = x.double(), memory.columns["x"].double()
        strategy.loss = F.cross_entropy(model(x, 2), label)
        state = memory.generator.get_state()
        ours(plugin, strategy)
        old = memory.at(torch.randperm(len(memory), generator=torch.Generator().set_state(state))[:32])
        assert old.task_labels.unique().tolist() == [0, 1]
        examples = [(a, b, 2) for a, b in zip(x, label, strict=True)]
        examples += list(zip(old.x, old.y, old.task_labels.tolist(), strict=True))
        value, step = paper_loss(model, examples, plugin)
        torch.testing.assert_close(strategy.loss.detach().squeeze(), value)
        assert strategy.loss > 1.01 * paper_loss(model, examples, plugin, [None] * len(step))[0]  # anchors do count
        trained = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(strategy.loss, trained, allow_unused=True)
        direction = [torch.randn_like(p) for p in trained]
        slope = sum((g * d).sum() for g, d in zip(found, direction, strict=True) if g is not None)
        ends = []
        for shift in (1e-7, -2e-7):  # short, so that no maximum moves to another token
            with torch.no_grad():
                for p, d in zip(trained, direction, strict=True):
                    p += shift * d
            ends.append(paper_loss(model, examples, plugin, None if second_order else step)[0])
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-7, rtol=1e-4, atol=1e-6)
        checked.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(HALPlugin, "before_backward", check)
    with pytest.raises(KeyboardInterrupt):
        strategy.train(benchmark.train_stream[2], eval_streams=[])
    assert checked


def test_what_a_step_moves() -> None:
    benchmark = tiny_images("til", (2, 3, 2))
    strategy = train(build(benchmark), benchmark, 2)
    assert [head.weight.grad is None for head in strategy.model.heads.linears] == [False, False, True]


def test_dropout_is_off_at_the_anchors_alone() -> None:
    """With it, outputs would differ without any step."""
    benchmark = tiny_images("til", (2, 2))
    strategy = train(build(benchmark, virtual_learning_rate=0.0, anchor_steps=2), benchmark, 1)
    strategy.model.train()
    strategy.loss = strategy.model(torch.rand(2, 1, 16, 16), 1).sum()
    assert strategy.plugins[0].anchor_loss(strategy) == 0
    assert all(module.training for module in strategy.model.modules())


def test_means_are_those_of_the_features_that_the_step_computed() -> None:
    benchmark = tiny_images("til", (2, 3))
    strategy, batches = build(benchmark), []
    for module in strategy.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    class Watch(SupervisedPlugin[Any], supports_distributed=True):  # type: ignore[call-arg]
        def after_forward(self, strategy: Any, **kwargs: Any) -> None:
            batches.append((strategy.model.backbone.features(strategy.mb_x, 0).detach(), strategy.mb_y))

    strategy.plugins.append(Watch())
    train(strategy, benchmark, 2)
    expected: dict[int, Tensor] = {}
    for features, y in batches[6:]:  # of the second task: each starts anew
        for c in y.unique().tolist():
            mean = features[y == c].mean(0)
            expected[c] = 0.5 * expected[c] + 0.5 * mean if c in expected else mean
    torch.testing.assert_close(strategy.plugins[0].means, torch.stack([expected[c] for c in range(3)]))


def test_running_means_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    means, seen = torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool)
    expected: dict[int, Tensor] = {}
    for _ in range(5):
        features, y = torch.randn(6, 3), torch.randint(3, (6,))
        means, seen = running_means(means, seen, features, y, 0.7)
        for c in set(y.tolist()):
            mean = features[y == c].mean(0)
            expected[c] = 0.7 * expected[c] + 0.3 * mean if c in expected else mean
    assert seen.tolist() == [True, True, True, False]
    torch.testing.assert_close(means, torch.stack([*(expected[c] for c in range(3)), torch.zeros(3)]))


# --- anchors


def test_objective_has_the_gradient_of_its_formula() -> None:
    """For logits V e, V' e and features W e: V'(p - 1_c) - V''(p' - 1_c) + 2 gamma W'(W e - phi)."""
    torch.manual_seed(0)
    now, lost, encoder = (torch.randn(n, 5) for n in (3, 3, 4))
    anchors, classes, means = torch.randn(3, 5, requires_grad=True), torch.tensor([2, 0, 1]), torch.randn(3, 4)
    value = anchor_objective(anchors @ now.T, anchors @ lost.T, anchors @ encoder.T, classes, means, 0.3)
    found = torch.autograd.grad(value, anchors)[0]
    for i, c in enumerate(classes.tolist()):
        e, hot = anchors[i].detach(), F.one_hot(torch.tensor(c), 3)
        expected = now.T @ ((now @ e).softmax(0) - hot) - lost.T @ ((lost @ e).softmax(0) - hot)
        torch.testing.assert_close(found[i], expected + 2 * 0.3 * encoder.T @ (encoder @ e - means[i]))


def test_anchors_of_all_classes_at_once_are_those_of_one_after_the_other() -> None:
    benchmark = tiny_images("til", (2, 3))
    strategy = train(build(benchmark, anchor_steps=6, virtual_learning_rate=0.2), benchmark, 2)
    plugin, model, data = strategy.plugins[0], strategy.model, benchmark.train_stream[1].dataset
    assert plugin.anchors.shape == (5, 1, 16, 16) and plugin.anchor_heads.tolist() == [0, 0, 1, 1, 1]
    generator = torch.Generator().set_state(plugin.memory.generator.get_state())
    strategy.experience = benchmark.train_stream[1]
    plugin.learn_anchors(strategy)

    torch.randperm(len(data), generator=generator)  # the examples, whose pixels do not matter
    starts = torch.rand(3, 1, 16, 16, generator=generator)
    model.eval()
    forgetful = deepcopy(model)
    sgd = torch.optim.SGD(forgetful.parameters(), lr=0.2)
    for slots in torch.randperm(len(plugin.memory), generator=generator).split(32):
        old = plugin.memory.at(slots)
        loss = F.cross_entropy(forgetful(old.x, old.task_labels), old.y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for c in range(3):
        anchor = starts[c : c + 1].clone().requires_grad_()
        descent, label = torch.optim.SGD([anchor], lr=0.05), torch.tensor([c])
        for _ in range(6):
            distance = (model.backbone.features(anchor, 1) - plugin.means[c]).square().sum()
            gain = F.cross_entropy(model(anchor, 1), label) - F.cross_entropy(forgetful(anchor, 1), label)
            descent.zero_grad()
            (gain + 0.1 * distance).backward()
            descent.step()
        torch.testing.assert_close(plugin.anchors[5 + c], anchor[0].detach(), atol=1e-5, rtol=1e-4)


def test_text_anchors_start_from_repeated_tokens_and_images_from_noise() -> None:
    embedded, mask = torch.randn(2, 5, 3), torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    start = first_anchors(embedded, mask, 4, torch.Generator())
    assert torch.equal(start[0], embedded[0, [0, 1, 2, 0]]) and torch.equal(start[1], embedded[1, :4])
    noise = first_anchors(torch.zeros(50, 1, 4, 4), None, 4, torch.Generator().manual_seed(0))
    assert noise.min() >= 0 and noise.max() < 1 and abs(noise.mean() - 0.5) < 0.05


def test_anchors_hold_against_the_memory_of_past_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first task there is none, and what is left of the objective is the distance to the mean."""
    benchmark = tiny_images("til", (2, 2, 2))
    strategy, past, starts = build(benchmark, anchor_steps=3), [], []
    ours = HALPlugin.fine_tuned

    def spy(plugin: HALPlugin, *args: Any) -> Any:
        past.append(set(plugin.memory.tasks[: len(plugin.memory)].tolist()))
        return ours(plugin, *args)

    def start(embedded: Tensor, mask: Any, length: int, generator: Any) -> Tensor:
        starts.append(torch.rand(embedded.shape))
        return starts[-1].clone()

    monkeypatch.setattr(HALPlugin, "fine_tuned", spy)
    monkeypatch.setattr("nlpcl.strategies.hal.first_anchors", start)
    train(strategy, benchmark, 1)
    model = strategy.model.eval()
    anchors = starts[0].clone().requires_grad_()
    for _ in range(3):
        distance = (model.backbone.features(anchors, 0) - strategy.plugins[0].means).square().sum()
        anchors = (anchors - 0.05 * torch.autograd.grad(0.1 * distance, anchors)[0]).detach().requires_grad_()
    torch.testing.assert_close(strategy.plugins[0].anchors, anchors.detach())
    for experience in benchmark.train_stream[1:]:
        strategy.train(experience, eval_streams=[])
    assert past == [set(), {0}, {0, 1}]


@pytest.mark.parametrize("parity", [False, True])
def test_every_task_has_its_part_of_the_memory(parity: bool) -> None:
    plugin = HALPlugin(ContinualModel(Pixels(4), TaskHeads(4, [2, 2, 2])), memory_size=12, memory_share=1.0)
    plugin.memory.whole = parity
    memory = plugin.memory
    for task, size in enumerate((40, 3, 40)):
        memory.add([(torch.tensor([100 * task + i]), 0, task) for i in range(size)], task)
    assert [int((memory.tasks == task).sum()) for task in range(3)] == [4, 3, 4] and len(memory) == 11
    x = memory.at(torch.arange(11)).x[:, 0]
    assert torch.equal(x // 100, memory.tasks[:11]) and len(x.unique()) == 11
    assert (x.tolist() == [0, 1, 2, 3, 100, 101, 102, 200, 201, 202, 203]) == parity


# --- training


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_learns_images(scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2))
    strategy = train(build(benchmark, train_epochs=15, virtual_learning_rate=0.1), benchmark, 2)
    assert min(accuracy(strategy, test, task) for task, test in enumerate(benchmark.test_stream)) > 0.8
    kept, anchors = strategy.kept_bytes(2), strategy.plugins[0].anchors
    assert anchors.shape == (4, 1, 16, 16) and anchors.isfinite().all()
    assert kept["hindsight"] == 4 * (16 * 16 * 4 + 8) and kept["memory"] > 0


@pytest.mark.parametrize(
    ("backbone", "scenario"), [("bert_frozen", "til"), ("bert_frozen, gru", "til"), ("bert_adapter", "dil")]
)
def test_learns_text(backbone: str, scenario: str, tiny: str) -> None:
    til = scenario == "til"
    tasks = make_tasks((2, 2), flip=til)  # one head cannot say that words mean the opposite in the second task
    benchmark = text_benchmark_from_tasks(tasks, name="tiny", scenario=scenario, tokenizer=tiny, max_length=32)
    strategy = build(benchmark, backbone, encoder=tiny, train_epochs=8, anchor_steps=10, anchor_length=6)
    train(strategy, benchmark, 2)
    assert min(accuracy(strategy, test, til * task) for task, test in enumerate(benchmark.test_stream)) > 0.65
    assert strategy.plugins[0].anchors.shape == (4, 6, 32) and strategy.plugins[0].anchors.isfinite().all()


def test_runs_in_other_precision_and_in_a_strategy_of_avalanche(tiny: str, benchmark_of: Any) -> None:
    benchmark = benchmark_of("til", (2, 3))
    strategy = build(benchmark, "bert_adapter", encoder=tiny, precision="bf16", anchor_steps=2, schedule="linear")
    train(strategy, benchmark, 2)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    plugin = HALPlugin(model, anchor_steps=2, second_order=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    train(Naive(model=model, optimizer=optimizer, train_mb_size=16, plugins=[plugin]), benchmark, 2)
    for p in [*strategy.model.parameters(), strategy.plugins[0].anchors, *model.parameters(), plugin.anchors]:
        assert p.isfinite().all()


def test_what_cannot_work_is_refused(tiny: str, benchmark_of: Any) -> None:
    images, texts = tiny_images("til", (2, 2)), benchmark_of("til", (2, 2))
    for wrong in ({"anchor_length": 0}, {"lamb": -1.0}, {"gamma": -0.1}, {"beta": 1.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            build(images, **wrong)
    with refused("anchor_length 64"):  # the tiny encoder's positions
        build(texts, "bert_adapter", encoder=tiny, anchor_length=65)
    with pytest.raises(TypeError, match="ContinualModel"):
        HAL(model=nn.Linear(2, 2), optimizer=None)
    strategy = build(texts, "bert_frozen", encoder=tiny)
    strategy.model.backbone.embed = lambda x: (x, None)  # as of a backbone that says nothing about it
    with refused("BertFrozen"):
        train(strategy, texts, 1)
