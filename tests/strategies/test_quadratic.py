"""EWC and L2: one merged penalty equals one per task; Fisher information equals plain loops and a closed form."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models import build_model
from nlpcl.strategies._shared.quadratic import MergedQuadratic, trainable
from nlpcl.strategies.ewc import EWC, EWCPlugin
from nlpcl.strategies.l2 import L2, L2Plugin
from nlpcl.strategies.ncl import NCL

SHAPES = {"weight": (3, 4), "bias": (4,), "scale": ()}
SAMPLES = 9


def build(cls: Any, benchmark: Any, tiny: str, **options: Any) -> Any:
    torch.manual_seed(1)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    return cls(model=model, optimizer=optimizer, train_mb_size=16, clip_norm=1.0, **options)


def train(strategy: Any, benchmark: Any, tasks: int | None = None) -> Any:
    for experience in benchmark.train_stream[:tasks]:
        strategy.train(experience, eval_streams=[])
    return strategy


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def gradients(loss: Tensor, parameters: dict[str, Any]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), grads, strict=True)}


def merged(found: MergedQuadratic, model: nn.Module) -> dict[str, Tensor]:
    return gradients(found.penalty(trainable(model)), trainable(model))


def squares(model: nn.Module, data: Any, task: int, size: int, labels: Tensor | None = None) -> dict[str, Tensor]:
    """sum_b |b| / N (d CE_b / d theta)^2 over batches of the data in file order, from `backward`."""
    total = {name: torch.zeros_like(p) for name, p in trainable(model).items()}
    for start in range(0, len(data), size):
        rows = [data[i] for i in range(start, min(start + size, len(data)))]
        y = torch.tensor([int(row[1]) for row in rows]) if labels is None else labels[start : start + size]
        model.zero_grad()
        F.cross_entropy(model(torch.stack([row[0] for row in rows]), task), y).backward()
        for name, p in trainable(model).items():
            if p.grad is not None:
                total[name] += len(rows) / len(data) * p.grad**2
    model.zero_grad()
    return total


def no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize("kind", ["tensor", "number"])
def test_merged_gradient_equals_the_sum_of_separate_penalties(kind: str) -> None:
    """Random importances, partly zero, some for every task; the penalties differ by a constant."""
    generator = torch.Generator().manual_seed(3)
    draw = {name: (lambda shape=shape: torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    theta = {name: nn.Parameter(make()) for name, make in draw.items()}
    found, terms = MergedQuadratic(), []
    for k in range(4):
        importance: dict[str, Any] = {name: make().clamp(min=0) for name, make in draw.items()}
        importance["weight"][0] = 0.0
        if kind == "number":
            importance = dict.fromkeys(SHAPES, 1.0)
        anchors = {name: make() for name, make in draw.items()}
        if k == 1:
            del importance["bias"]
        found.add(importance, anchors)
        terms.append((importance, anchors))

    def separate() -> Tensor:
        return torch.stack([(f[n] * (theta[n] - a[n]) ** 2).sum() for f, a in terms for n in f]).sum()

    expected = gradients(3 * separate(), theta)
    for name, grad in gradients(3 * found.penalty(theta), theta).items():
        torch.testing.assert_close(grad, expected[name])
    constant = separate() - found.penalty(theta)
    with torch.no_grad():
        theta["weight"].add_(0.7)
        theta["scale"].sub_(0.4)
    torch.testing.assert_close(separate() - found.penalty(theta), constant, atol=1e-4, rtol=1e-5)


def test_penalty_leaves_out_what_it_does_not_know() -> None:
    found = MergedQuadratic()
    p = nn.Parameter(torch.ones(2))
    assert found.penalty({"p": p}) == 0
    found.add({"q": 1.0}, {"q": torch.zeros(2)})
    assert found.penalty({"p": p}) == 0
    assert found.penalty({"p": p, "q": p}) == 2


def in_task(strategy: Any, task: int) -> None:
    """As if the experience with that task label were training."""
    strategy.experience = SimpleNamespace(task_labels=[task])


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_l2_formula(scenario: str, parity: bool, benchmark_of: Any, tiny: str) -> None:
    """The loss of task 2 is CE + lambda sum_k sum_j (theta_j - theta_kj*)^2 up to a constant: same gradient.

    The head of task 2 was in no earlier task, and those of tasks 0 and 1 are not trained now; with parity all are in.
    """
    benchmark = benchmark_of(scenario, (2, 2, 2))
    strategy = build(L2, benchmark, tiny, lamb=0.3, parity=parity)
    anchors = []
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience, eval_streams=[])
        anchors.append(values(strategy.model))
    plugin, theta = strategy.plugins[0], trainable(strategy.model)
    assert any("heads" in name for name in theta)
    with torch.no_grad():
        for p in theta.values():
            p.add_(torch.randn_like(p))
    own = [n for n in theta if scenario == "dil" or parity or "heads" not in n]
    terms = [((theta[n] - a[n]) ** 2).sum() for a in anchors for n in own]
    expected = gradients(0.3 * torch.stack(terms).sum(), theta)
    strategy.loss = torch.zeros(())
    in_task(strategy, 2)
    plugin.before_backward(strategy)
    for name, grad in gradients(strategy.loss, theta).items():
        torch.testing.assert_close(grad, expected[name])


@pytest.mark.parametrize("parity", [False, True])
def test_ewc_adds_half_lambda_times_the_penalty(parity: bool, benchmark_of: Any, tiny: str) -> None:
    strategy = train(build(EWC, benchmark_of(), tiny, lamb=8.0, parity=parity), benchmark_of(), 1)
    plugin, theta = strategy.plugins[0], trainable(strategy.model)
    fisher, anchors = plugin.quadratic.importance, values(strategy.model)
    with torch.no_grad():
        for p in theta.values():
            p.add_(torch.randn_like(p))
    strategy.loss = torch.zeros(())
    in_task(strategy, 1)
    plugin.before_backward(strategy)
    # The head of task 0 is not trained now; with parity every head is in the sum.
    held = {n: f for n, f in fisher.items() if parity or not n.startswith("heads.linears.0")}
    expected = 8.0 / 2 * sum((f * (theta[n] - anchors[n]) ** 2).sum() for n, f in held.items())
    torch.testing.assert_close(strategy.loss, expected)


class Probe(nn.Module):
    """A linear softmax model, with dropout that must be off, in a mode that must be put back."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x))


class FakeStrategy:
    """What the plugin reads of a strategy."""

    def __init__(self, model: Probe, data: Any) -> None:
        self.model = model
        self.device = torch.device("cpu")
        self.experience = type("Experience", (), {"dataset": data})


def linear_case() -> tuple[FakeStrategy, Tensor]:
    torch.manual_seed(5)
    x = torch.randn(SAMPLES, 4)
    return FakeStrategy(Probe(), [(x[i], 0, 0) for i in range(SAMPLES)]), x


def test_fisher_of_a_linear_softmax_model() -> None:
    """F = mean (p - onehot) x^T squared, with the labels that the same draws give."""
    strategy, x = linear_case()
    plugin = EWCPlugin(fisher_samples=SAMPLES)
    twin = copy.deepcopy(plugin.generator)
    strategy.model.train()
    strategy.model.linear.eval()
    state = torch.get_rng_state()
    found = plugin.fisher(strategy)
    assert torch.equal(torch.get_rng_state(), state)
    assert strategy.model.dropout.training and not strategy.model.linear.training
    assert all(p.grad is None for p in strategy.model.parameters())
    order = torch.randperm(SAMPLES, generator=twin)
    p = strategy.model.linear(x[order]).softmax(dim=1).detach()
    y = torch.cat([torch.multinomial(row[None], 1, generator=twin)[:, 0] for row in p])
    assert len(set(y.tolist())) > 1  # not the data's labels, all 0
    error = p - F.one_hot(y, 3)
    torch.testing.assert_close(found["linear.bias"], (error**2).mean(dim=0))
    expected = (error[:, :, None] * x[order][:, None, :]) ** 2
    torch.testing.assert_close(found["linear.weight"], expected.mean(dim=0))


def test_fisher_is_the_expectation_over_the_models_labels() -> None:
    """The mean over many estimates tends to E_y (p - onehot_y)^2 = p (1 - p), for each class."""
    strategy, x = linear_case()
    plugin = EWCPlugin(fisher_samples=SAMPLES)
    estimates = torch.stack([plugin.fisher(strategy)["linear.bias"] for _ in range(60)])
    p = strategy.model.linear(x).softmax(dim=1).detach()
    torch.testing.assert_close(estimates.mean(dim=0), (p * (1 - p)).mean(dim=0), atol=0.03, rtol=0)


def test_fisher_samples_bounds_the_examples() -> None:
    strategy, x = linear_case()
    found = EWCPlugin(fisher_samples=1).fisher(strategy)
    ratios = found["linear.weight"] / found["linear.bias"][:, None]  # x^2 of the one example drawn
    assert any(torch.allclose(ratios, row.expand(3, 4) ** 2, rtol=1e-4) for row in x)
    with pytest.raises(ValueError, match="fisher_samples"):
        EWCPlugin(fisher_samples=0)


def test_fisher_equals_a_plain_loop_on_an_encoder(
    benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With labels fixed to class 1, sample by sample, in evaluation mode, whatever the mode before."""
    benchmark = benchmark_of("til", (2, 3), n=12)
    strategy = train(build(EWC, benchmark, tiny), benchmark)
    strategy.experience = benchmark.train_stream[1]
    monkeypatch.setattr(torch, "multinomial", lambda p, n, generator: torch.ones(len(p), n, dtype=torch.int64))
    strategy.model.train()
    found = strategy.plugins[0].fisher(strategy)
    assert all(module.training for module in strategy.model.modules())
    strategy.model.eval()
    expected = squares(strategy.model, benchmark.train_stream[1].dataset, 1, 1, torch.ones(12, dtype=torch.int64))
    for name, f in found.items():
        torch.testing.assert_close(f, expected.pop(name), atol=1e-7, rtol=1e-3)
    assert sorted(expected) == ["heads.linears.0.bias", "heads.linears.0.weight"]


def test_ewc_equals_a_penalty_per_task(benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = benchmark_of("til", (2, 3, 2, 2), n=16)
    terms: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    fisher = EWCPlugin.fisher

    def noted(plugin: EWCPlugin, strategy: Any) -> dict[str, Tensor]:
        terms.append((fisher(plugin, strategy), values(strategy.model)))
        return terms[-1][0]

    monkeypatch.setattr(EWCPlugin, "fisher", noted)
    strategy = train(build(EWC, benchmark, tiny), benchmark)
    theta = trainable(strategy.model)
    with torch.no_grad():
        for p in theta.values():
            p.add_(0.1 * torch.randn_like(p))
    separate = torch.stack([(f[n] * (theta[n] - a[n]) ** 2).sum() for f, a in terms for n in f])
    expected = gradients(separate.sum(), theta)
    for name, grad in merged(strategy.plugins[0].quadratic, strategy.model).items():
        torch.testing.assert_close(grad, expected[name])


def test_parity_fisher_equals_a_plain_loop_with_the_penalty(benchmark_of: Any, tiny: str) -> None:
    """Batches of 20 in file order, true labels, running mean, latest weights; the penalty at theta* has no gradient."""
    benchmark = benchmark_of("dil", (2, 2, 2), n=50)
    strategy = build(EWC, benchmark, tiny, parity=True, lamb=5000.0)
    no_dropout(strategy.model)
    average: dict[str, Tensor] = {}
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        new = squares(strategy.model.train(), experience.dataset, 0, 20)
        average = {name: (f + t * average.get(name, 0.0)) / (t + 1) for name, f in new.items()}
        found = strategy.plugins[0].quadratic
        for name, f in found.importance.items():
            torch.testing.assert_close(f, average[name], atol=1e-9, rtol=1e-4)
            assert torch.equal(found.anchors[name][f > 0], values(strategy.model)[name][f > 0])
        assert all(not grad.any() for grad in merged(found, strategy.model).values())


def test_parity_estimates_in_training_mode(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2,), n=20)
    strategy = train(build(EWC, benchmark, tiny, parity=True), benchmark)
    strategy.experience = benchmark.train_stream[0]
    strategy.model.eval()
    modes: list[bool] = []
    strategy.model.heads.register_forward_hook(lambda module, *_: modes.append(module.training))
    strategy.plugins[0].fisher(strategy)
    assert modes == [True] and not strategy.model.training


@pytest.mark.parametrize("parity", [False, True])
def test_a_head_is_held_only_by_tasks_that_used_it(parity: bool, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = train(build(EWC, benchmark, tiny, parity=parity), benchmark, 2)
    theta = trainable(strategy.model)
    with torch.no_grad():
        for p in theta.values():
            p.add_(1.0)
    grads = merged(strategy.plugins[0].quadratic, strategy.model)
    assert grads["heads.linears.0.bias"].all() and grads["heads.linears.1.bias"].all()
    assert not grads["heads.linears.2.weight"].any() and not grads["heads.linears.2.bias"].any()


@pytest.mark.parametrize("cls", [EWC, L2])
def test_kept_bytes_do_not_grow(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2, 2), n=16)
    strategy = build(cls, benchmark, tiny)
    sizes: list[dict[str, int]] = []
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
        sizes.append(strategy.kept_bytes(len(sizes) + 1))
    trained = sum(4 * p.numel() for p in trainable(strategy.model).values())
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0]["anchors"] == trained
    assert sizes[0]["importance"] == (trained if cls is EWC else 0)


@pytest.mark.parametrize("cls", [EWC, L2])
@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_without_strength_it_is_ncl(cls: Any, scenario: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of(scenario, (2, 2), n=32)
    plain = train(build(NCL, benchmark, tiny), benchmark)
    for strength, same in ((0.0, True), (10.0, False)):
        strategy = train(build(cls, benchmark, tiny, lamb=strength), benchmark)
        found, expected = values(strategy.model), values(plain.model)
        assert all(torch.equal(found[name], expected[name]) for name in expected) is same


def test_nothing_is_added_in_the_first_task(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), n=32)
    plain = values(train(build(NCL, benchmark, tiny), benchmark, 1).model)
    for cls in (EWC, L2):
        found = values(train(build(cls, benchmark, tiny), benchmark, 1).model)
        assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(("cls", "lamb"), [(L2Plugin, 10.0), (EWCPlugin, 2e3)])
def test_plugin_holds_weights_under_avalanches_own_naive(cls: Any, lamb: float, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), n=32)
    moved = []
    for strength in (0.0, lamb):
        torch.manual_seed(1)
        model = build_model(benchmark, encoder=tiny, adapter_size=8)
        optimizer = torch.optim.SGD(trainable(model).values(), lr=5e-3)
        strategy = Naive(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=8,
            train_epochs=4,
            plugins=[cls(lamb=strength)],
            evaluator=None,
        )
        before = values(train(strategy, benchmark, 1).model)
        strategy.train(benchmark.train_stream[1], eval_streams=[])
        after = values(strategy.model)
        shared = [name for name in before if "heads" not in name]
        moved.append(float(sum(((after[n] - before[n]) ** 2).sum() for n in shared)))
    assert moved[1] < 0.9 * moved[0]


@pytest.mark.parametrize("cls", [EWC, L2])
def test_heads_of_other_tasks_do_not_move(cls: Any, benchmark_of: Any, tiny: str) -> None:
    """Not by the penalty, and not by weight decay, which moves whatever has a gradient, if only of 0."""
    benchmark = benchmark_of("til", (2, 2, 2))
    strategy = train(build(cls, benchmark, tiny), benchmark, 1)
    heads = strategy.model.heads.linears
    before = [heads[k].weight.detach().clone() for k in (0, 2)]
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert all(torch.equal(heads[k].weight, kept) for k, kept in zip((0, 2), before, strict=True))
