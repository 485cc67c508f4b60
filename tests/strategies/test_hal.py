"""HAL against its equations, written as plain loops and closed forms."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.models.base import Backbone, ContinualModel, Site
from nlpcl.models.heads import TaskHeads
from nlpcl.strategies.hal import HAL, HALPlugin, RingMemory, anchor_objective, first_anchors, running_means
from tests.models.test_image_cnn import tiny_images

CPU = torch.device("cpu")


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
        "bert_adapter": {"adapter_size": 16},
        "bert_frozen": {"filters": 32, "dropout": 0.1},
    }
    model = build_model(benchmark, backbone, encoder=options.pop("encoder", None), **sizes[backbone])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.1)
    common = {"model": model, "optimizer": optimizer, "train_mb_size": 8}
    return cls(**common, **{"train_epochs": 1, "memory_share": 0.5, **options})


def train(strategy: Any, benchmark: Any, tasks: int) -> Any:
    for experience in benchmark.train_stream[:tasks]:
        strategy.train(experience, eval_streams=[])
    return strategy


def accuracy(strategy: Any, test: Any, task: int) -> float:
    strategy.model.eval()
    data = test.dataset
    with torch.no_grad():
        logits = strategy.model(torch.stack([data[i][0] for i in range(len(data))]), task)
    return float((logits.argmax(1) == torch.tensor([int(y) for y in data.targets])).float().mean())


# --- the step


@pytest.mark.parametrize("second_order", [True, False])
def test_change_at_anchors_of_a_linear_model(second_order: bool) -> None:
    """For logits V x + b, CE has dV = (softmax - onehot)' x / n, so an anchor's logits change by -a (dV e + db)."""
    torch.manual_seed(0)
    model = ContinualModel(Pixels(4), TaskHeads(4, [2, 3, 2]))
    plugin = HALPlugin(model, second_order=second_order)
    plugin.weights = dict(model.named_parameters())
    plugin.anchors = torch.randn(5, 4)
    plugin.anchor_heads = plugin._anchor_tasks = torch.tensor([0, 0, 1, 1, 1])
    plugin._own_logits = 2 * 2 + 3 * 3
    x, y, rate = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0]), 0.3
    loss = F.cross_entropy(model(x, 1), y)
    strategy = SimpleNamespace(model=model, loss=loss, optimizer=torch.optim.SGD(model.parameters(), lr=rate))
    found = plugin.anchor_loss(strategy)

    weight, bias = (p.detach().clone().requires_grad_() for p in model.heads.linears[1].parameters())
    wrong = (x @ weight.T + bias).softmax(1) - F.one_hot(y, 3)
    change = -rate * (plugin.anchors[2:] @ (wrong.T @ x / 6).T + wrong.mean(0))  # head 1's; head 0 does not move
    expected = change.square().sum() / 13
    torch.testing.assert_close(found, expected)

    head: Any = model.heads.linears[1]
    if second_order:
        gradients = torch.autograd.grad(found, [head.weight, head.bias])
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, [weight, bias]), atol=1e-6, rtol=1e-4)
    else:  # of a linear model nothing is left
        gradients = torch.autograd.grad(found, [head.weight, head.bias], materialize_grads=True)
        assert all(g.abs().max() < 1e-6 for g in gradients)


def test_the_loss_of_a_step_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole loss against deep copies of the model, with dropout off."""
    benchmark = tiny_images("til", (2, 3, 2))
    strategy = build(benchmark, virtual_learning_rate=0.5, lamb=2.0)
    for module in strategy.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    train(strategy, benchmark, 1)
    seen = []
    ours = HALPlugin.before_backward

    def spy(plugin: Any, strategy: Any, **kwargs: Any) -> None:
        state = plugin.memory.generator.get_state()
        ours(plugin, strategy)
        if not seen:
            model = deepcopy(strategy.model)
            slots = torch.randperm(len(plugin.memory), generator=torch.Generator().set_state(state))[:32]
            old = plugin.memory.at(slots)
            both = F.cross_entropy(model(strategy.mb_x, 1), strategy.mb_y, reduction="sum")
            both = both + F.cross_entropy(model(old.x, 0), old.y, reduction="sum")
            both = both / (len(strategy.mb_y) + len(old.y))
            before = model(plugin.anchors, 0)
            both.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.5 * (torch.zeros_like(p) if p.grad is None else p.grad)
            expected = both + 2.0 * (model(plugin.anchors, 0) - before).square().mean()
            seen.append((strategy.loss.detach().squeeze(), expected.detach()))

    monkeypatch.setattr(HALPlugin, "before_backward", spy)
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    torch.testing.assert_close(*seen[0])
    assert strategy.model.heads.linears[2].weight.grad is None
    assert strategy.model.heads.linears[0].weight.grad is not None
    assert strategy.model.training


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
    plugin, model, data = strategy.replay, strategy.model, benchmark.train_stream[1].dataset
    assert plugin.anchors.shape == (5, 1, 16, 16) and plugin.anchor_heads.tolist() == [0, 0, 1, 1, 1]
    assert plugin._own_logits == 2 * 2 + 3 * 3
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


def test_every_task_has_its_part_of_the_memory() -> None:
    memory = RingMemory(3, 12, 1.0)
    for task, size in enumerate((40, 3, 40)):
        memory.add([(torch.tensor([100 * task + i]), 0, task) for i in range(size)], task, CPU)
    assert [int((memory.tasks == task).sum()) for task in range(3)] == [4, 3, 4] and len(memory) == 11
    assert memory.share == 1.0
    assert torch.equal(memory.at(torch.arange(11)).x[:, 0] // 100, memory.tasks[:11])


# --- training


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_learns_images(scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2))
    strategy = train(build(benchmark, train_epochs=15, virtual_learning_rate=0.1), benchmark, 2)
    assert min(accuracy(strategy, test, task) for task, test in enumerate(benchmark.test_stream)) > 0.8
    kept, anchors = strategy.kept_bytes(2), strategy.replay.anchors
    assert anchors.shape == (4, 1, 16, 16) and anchors.isfinite().all()
    assert kept["anchors"] == 4 * (16 * 16 * 4 + 8) and kept["memory"] > 0


@pytest.mark.parametrize(("backbone", "scenario"), [("bert_frozen", "til"), ("bert_adapter", "dil")])
def test_learns_text(backbone: str, scenario: str, tiny: str, benchmark_of: Any) -> None:
    benchmark = benchmark_of(scenario, (2, 2))
    if scenario == "dil":  # in the second task words mean the opposite, which one head cannot say
        options: dict[str, Any] = {"memory_share": 0.02}
    else:
        options = {}
    strategy = build(benchmark, backbone, encoder=tiny, train_epochs=8, anchor_steps=10, anchor_length=6, **options)
    train(strategy, benchmark, 2)
    assert accuracy(strategy, benchmark.test_stream[1], 1 if scenario == "til" else 0) > 0.65
    assert strategy.replay.anchors.shape == (4, 6, 32) and strategy.replay.anchors.isfinite().all()


def test_runs_in_other_precision_and_in_a_strategy_of_avalanche(tiny: str, benchmark_of: Any) -> None:
    benchmark = benchmark_of("til", (2, 3))
    strategy = build(benchmark, "bert_adapter", encoder=tiny, precision="bf16", anchor_steps=2, schedule="linear")
    train(strategy, benchmark, 2)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    plugin = HALPlugin(model, anchor_steps=2, second_order=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    train(Naive(model=model, optimizer=optimizer, train_mb_size=16, plugins=[plugin]), benchmark, 2)
    for p in [*strategy.model.parameters(), strategy.replay.anchors, *model.parameters(), plugin.anchors]:
        assert p.isfinite().all()


def test_what_cannot_work_is_refused(tiny: str, benchmark_of: Any) -> None:
    with pytest.raises(UsageError, match="anchor_length"):
        build(tiny_images("til", (2, 2)), anchor_length=0)
    with pytest.raises(TypeError, match="ContinualModel"):
        HAL(model=nn.Linear(2, 2), optimizer=None)
