"""The replay memory and GEM, A-GEM and DER++ against their equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quadprog
import torch
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.models.heads import ABSENT
from nlpcl.strategies._shared.quadratic import trainable
from nlpcl.strategies._shared.replay import (
    ReplayMemory,
    flatten,
    reference_gradient,
    reservoir_slots,
    set_gradients,
)
from nlpcl.strategies.agem import AGEM, AGEMPlugin, project_agem
from nlpcl.strategies.derpp import DERPP, DERPPPlugin, own_mse
from nlpcl.strategies.gem import GEM, GEMPlugin, project_gem
from nlpcl.strategies.ncl import NCL
from nlpcl.training.forward import logits_of

METHODS = [AGEM, GEM, DERPP]
PLUGINS = [AGEMPlugin, GEMPlugin, DERPPPlugin]


def build(cls: Any, benchmark: Any, tiny: str, **options: Any) -> Any:
    torch.manual_seed(1)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    return cls(model=model, optimizer=optimizer, train_mb_size=16, train_epochs=1, **options)


def train(strategy: Any, benchmark: Any, tasks: int) -> Any:
    for experience in benchmark.train_stream[:tasks]:
        strategy.train(experience, eval_streams=[])
    return strategy


def rows(values: range, task: int, length: int = 3) -> list[tuple[Tensor, int, int]]:
    return [(torch.full((3, length), v), v % 2, task) for v in values]


def filled(sizes: tuple[int, ...] = (10, 20, 30), **options: Any) -> ReplayMemory:
    memory = ReplayMemory(**{"share": 0.5, **options})
    for task, size in enumerate(sizes):
        memory.add(rows(range(100 * task, 100 * task + size), task), task)
    return memory


# --- memory


@pytest.mark.parametrize("seed", range(20))
def test_reservoir_is_algorithm_r(seed: int) -> None:
    generator, capacity, seen = torch.Generator().manual_seed(seed), 5, 0
    kept, expected = [-1] * capacity, [-1] * capacity
    for count in (3, 7, 40):
        uniform = torch.rand(count, generator=torch.Generator().set_state(generator.get_state()), dtype=torch.float64)
        for i, slot in enumerate(reservoir_slots(seen, count, capacity, generator)):
            if slot >= 0:
                kept[slot] = seen + i
        for i in range(count):
            n = seen + i
            slot = n if n < capacity else int(float(uniform[i]) * (n + 1))
            if slot < capacity:
                expected[slot] = n
        seen += count
    assert kept == expected


def test_reservoir_keeps_every_example_equally_often() -> None:
    generator, hits = torch.Generator().manual_seed(0), torch.zeros(20)
    for _ in range(2000):
        kept = {slot: n for n, slot in enumerate(reservoir_slots(0, 20, 5, generator)) if slot >= 0}
        hits[list(kept.values())] += 1
    # 5/20 of 2000 draws each, standard deviation below 20
    assert ((hits - 500).abs() < 90).all()


def test_memory_holds_what_the_reservoir_kept() -> None:
    memory = filled((60, 80, 100), capacity=16)
    assert len(memory) == 16 and memory.seen == 120
    drawn = memory.at(torch.arange(16))
    assert torch.equal(drawn.x[:, 0, 0] // 100, memory.tasks)
    assert torch.equal(drawn.task_labels, memory.heads) and torch.equal(memory.heads, memory.tasks)
    assert torch.equal(drawn.y, drawn.x[:, 0, 0] % 2)
    assert len(set(drawn.x[:, 0, 0].tolist())) == 16
    assert memory.kept_bytes() == {"memory": 16 * 8 * (9 + 1 + 1)}


def test_examples_are_random_or_in_file_order() -> None:
    assert filled((100,), share=0.05, whole=True).draw().x[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert filled((100,), share=0.05).indices(100).numel() == 5
    chosen = {tuple(sorted(filled((100,), share=0.05, seed=s).draw(5).x[:, 0, 0].tolist())) for s in range(4)}
    assert len(chosen) == 4
    assert len(filled((10,), share=0.01)) == 1  # at least one


def test_draws_are_without_replacement() -> None:
    memory = filled()
    for size in (1, 7, 30, 99):
        drawn = memory.draw(size).x[:, 0, 0].tolist()
        assert len(drawn) == len(set(drawn)) == min(size, 30)
    assert memory.draw(7).x[:, 0, 0].tolist() != memory.draw(7).x[:, 0, 0].tolist()
    assert len(filled(whole=True).draw(7).y) == 30


def test_a_draw_by_task_has_every_past_task() -> None:
    plugin, original = GEMPlugin(), GEMPlugin(parity=True)
    plugin.memory, original.memory = filled(), filled(whole=True)
    for size, quotas in ((15, [5, 5, 5]), (30, [5, 10, 10]), (2, [1, 1, 1])):
        draws = plugin.draws(size)
        assert [len(slots) for slots in draws] == quotas
        assert [set(plugin.memory.tasks[slots].tolist()) for slots in draws] == [{0}, {1}, {2}]
    assert [len(slots) for slots in original.draws(3)] == [5, 10, 15]


def test_texts_and_logits_of_different_length_join() -> None:
    memory = ReplayMemory(share=1.0)
    for task, (length, classes) in enumerate(((4, 2), (6, 3), (2, 2))):
        slots = memory.add(rows(range(1, 6), task, length), task)
        memory.keep("logits", slots, torch.full((5, classes), float(task)), fill=ABSENT)
    drawn = memory.at(torch.arange(15))
    assert drawn.x.shape == (15, 3, 6) and drawn.logits is not None
    for i in range(15):
        length, classes = ((4, 2), (6, 3), (2, 2))[i // 5]
        assert (drawn.x[i, :, :length] == drawn.x[i, 0, 0]).all() and (drawn.x[i, :, length:] == 0).all()
        assert (drawn.logits[i, :classes] == i // 5).all() and (drawn.logits[i, classes:] == ABSENT).all()


def test_memory_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    memory = filled(capacity=8)
    memory.draw(4)
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_out_of_range_are_refused() -> None:
    for plugin, wrong in (
        (AGEMPlugin, {"memory_size": 0}),
        (AGEMPlugin, {"memory_share": 0.0}),
        (AGEMPlugin, {"memory_share": 1.5}),
        (AGEMPlugin, {"replay_batch_size": 0}),
        (GEMPlugin, {"margin": -1.0}),
        (GEMPlugin, {"eps": 0}),
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            plugin(**wrong)


# --- gradients


def test_agem_projection_is_its_formula() -> None:
    torch.manual_seed(0)
    met = set()
    for _ in range(20):
        g, r = torch.randn(2, 50, dtype=torch.float64)
        product = sum(float(a) * float(b) for a, b in zip(g, r, strict=True))
        square = sum(float(b) ** 2 for b in r)
        expected = g - product / square * r if product < 0 else g
        projected = project_agem(g, r)
        torch.testing.assert_close(projected, expected)
        assert float(projected @ r) > -1e-10
        met.add(product < 0)
    assert met == {True, False}
    assert torch.equal(project_agem(g, torch.zeros(50, dtype=torch.float64)), g)


def test_gradients_that_are_none_count_as_zero_and_stay_none() -> None:
    shapes = ((2, 3), (4,), (5,), (1, 2))
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    parameters[0].grad, parameters[1].grad = torch.ones(2, 3), torch.ones(4)
    known = [True, False, True, False]  # the reference has a gradient for the first and the third
    current = flatten(parameters, [p.grad for p in parameters])
    assert torch.equal(current, torch.cat([torch.ones(10), torch.zeros(7)]))
    reference = torch.cat([-torch.ones(6), torch.zeros(4), torch.full((5,), 0.5), torch.zeros(2)])
    set_gradients(parameters, project_agem(current, reference), known)
    ratio = -6 / (6 + 5 * 0.25)
    expected: list[Tensor | None] = [torch.full((2, 3), 1 + ratio), torch.ones(4), torch.full((5,), -ratio / 2), None]
    for p, gradient in zip(parameters, expected, strict=True):
        if gradient is None:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, gradient)


def random_constraints(seed: int, t: int = 4, size: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(t, size)) * rng.uniform(0.1, 10), rng.normal(size=size)


@pytest.mark.parametrize("seed", range(8))
def test_gem_without_margin_is_the_primal_projection(seed: int) -> None:
    """min |z - g|^2 so that Gz >= 0: its multipliers are v, its solution G'v + g."""
    G, g = random_constraints(seed)
    z, _, _, _, multipliers, _ = quadprog.solve_qp(np.eye(len(g)), g, G.T, np.zeros(len(G)))
    v = project_gem(G @ G.T, G @ g, 0.0, 1e-10)
    np.testing.assert_allclose(v, multipliers, atol=1e-7)
    np.testing.assert_allclose(G.T @ v + g, z, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_gem_with_margin_is_the_regularised_dual(seed: int) -> None:
    G, g = random_constraints(seed)
    gram, products = G @ G.T, G @ g
    added = 1e-3 * np.trace(gram) / len(G)
    expected = quadprog.solve_qp(gram + added * np.eye(len(G)), -products, np.eye(len(G)), np.full(len(G), 0.5))[0]
    for scale in (1.0, 1e-6):  # v does not depend on the size of the loss
        v = project_gem(scale**2 * gram, scale**2 * products, 0.5, 1e-3)
        np.testing.assert_allclose(v, expected, rtol=1e-6, atol=1e-9)
    assert (v >= 0.5 - 1e-9).all()
    assert (G @ (G.T @ expected + g) >= -added * expected - 1e-8).all()


# --- strategies


class Spy(nn.Module):
    """Notes the task labels that heads are asked for."""

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.heads = heads
        self.calls: list[Tensor] = []

    def forward(self, features: Tensor, task_labels: Tensor | int) -> Tensor:
        self.calls.append(torch.as_tensor(task_labels).expand(len(features)).clone())
        return self.heads(features, task_labels)


@pytest.mark.parametrize("cls", METHODS)
def test_replayed_examples_pass_their_own_heads(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = train(build(cls, benchmark, tiny, memory_share=0.1), benchmark, 2)
    memory = strategy.plugins[0].memory
    assert sorted(memory.tasks[: len(memory)].tolist()) == [0] * 6 + [1] * 6
    drawn: list[Tensor] = []
    at = memory.at

    def noted(slots: Tensor) -> Any:
        drawn.append(memory.heads[slots].clone())
        return at(slots)

    memory.at = noted
    heads, strategy.model.heads = strategy.model.heads, Spy(strategy.model.heads)
    strategy.train(benchmark.train_stream[2], eval_streams=[])
    replayed = [labels for labels in strategy.model.heads.calls if not (labels == 2).all()]
    own = [labels for labels in drawn if not (labels == 2).all()]
    assert len(replayed) == len(own) > 0
    assert all(torch.equal(a, b) for a, b in zip(replayed, own, strict=True))
    assert {label for labels in own for label in labels.tolist()} == {0, 1}
    strategy.model.heads = heads


def test_reference_gradient_is_that_of_own_heads_and_leaves_grad_alone(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = train(build(AGEM, benchmark, tiny, memory_share=0.1), benchmark, 2)
    strategy.model.eval()  # no dropout
    parameters, replayed = list(trainable(strategy.model).values()), strategy.plugins[0].memory.draw(12)
    before = [p.grad for p in parameters]
    flat, known = reference_gradient(strategy, parameters, replayed)
    assert all(a is b for a, b in zip(before, [p.grad for p in parameters], strict=True))
    labels = replayed.task_labels
    losses = [
        F.cross_entropy(strategy.model(x[None], int(t)), y[None])
        for x, y, t in zip(replayed.x, replayed.y, labels, strict=True)  # type: ignore[arg-type]
    ]
    expected = torch.autograd.grad(torch.stack(losses).mean(), parameters, allow_unused=True)
    torch.testing.assert_close(flat, flatten(parameters, expected), atol=1e-6, rtol=1e-4)
    assert known == [g is not None for g in expected]
    assert not all(known)
    assert all(p.requires_grad for p in strategy.model.heads.parameters())


@pytest.mark.parametrize("cls", [AGEM, GEM])
@pytest.mark.parametrize("parity", [False, True])
def test_gradient_of_a_step_meets_its_constraints(cls: Any, parity: bool, benchmark_of: Any, tiny: str) -> None:
    """After the hook the gradient is that of the equations on the references, computed here once more."""
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = train(build(cls, benchmark, tiny, memory_share=0.1, parity=parity), benchmark, 2)
    strategy.model.eval()
    replay, parameters = strategy.plugins[0], list(trainable(strategy.model).values())
    if cls is AGEM:
        wanted = [torch.arange(12)]
    else:
        wanted = replay.draws(12)
        replay.draws = lambda size: wanted
    G = torch.stack([reference_gradient(strategy, parameters, replay.memory.at(slots))[0] for slots in wanted])
    for p in parameters:
        p.grad = None
    opposed = torch.randn(G.shape[1]) * G.abs().mean() - 2 * G.sum(dim=0)
    set_gradients(parameters, opposed, [True] * len(parameters))
    assert (opposed @ G.T < 0).any()
    replay.after_backward(strategy)
    now = flatten(parameters, [p.grad for p in parameters])
    if cls is AGEM:
        expected = opposed - (opposed @ G[0]) / (G[0] @ G[0]) * G[0]
        slack = torch.zeros(1)
    else:
        gram = (G @ G.T).double()
        v = torch.from_numpy(project_gem(gram.numpy(), (G @ opposed).double().numpy(), 0.5, 1e-3)).float()
        expected = opposed + G.T @ v
        slack = 1e-3 * G.square().sum() / len(G) * v
    torch.testing.assert_close(now, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert (G @ now >= -slack - 1e-3 * G.square().sum()).all()


@pytest.mark.parametrize("cls", [AGEM, GEM])
def test_a_gradient_that_harms_no_task_stays(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2))
    strategy = train(build(cls, benchmark, tiny, memory_share=0.1), benchmark, 1)
    strategy.model.eval()
    parameters = list(trainable(strategy.model).values())
    agreeing, known = reference_gradient(strategy, parameters, strategy.plugins[0].memory.draw().on_device(strategy))
    set_gradients(parameters, agreeing, known)
    strategy.plugins[0].after_backward(strategy)
    assert torch.equal(flatten(parameters, [p.grad for p in parameters]), agreeing)


@pytest.mark.parametrize("parity", [False, True])
def test_derpp_loss_is_a_loop_over_samples(parity: bool, benchmark_of: Any, tiny: str) -> None:
    """Heads of 2 and 3 classes; stored logits are those of the model in evaluation mode after the sample's task."""
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = build(DERPP, benchmark, tiny, memory_share=0.1, replay_batch_size=5, alpha=0.3, beta=0.7, parity=parity)
    memory, targets = strategy.plugins[0].memory, {}
    for task in (0, 1):
        strategy.train(benchmark.train_stream[task], eval_streams=[])
        assert strategy.model.training
        strategy.model.eval()
        for slot in (memory.tasks == task).nonzero().flatten().tolist():
            with torch.no_grad():
                targets[slot] = strategy.model(memory.columns["x"][slot][None], task)[0]
    assert len(targets) == 12
    draws: list[Tensor] = []
    indices = memory.indices

    def noted(size: int) -> Tensor:
        draws.append(indices(size))
        return draws[-1]

    memory.indices = noted
    loss = strategy.plugins[0].replay_loss(strategy).detach()
    first, second = draws * 2 if parity else draws
    assert len(first) == (12 if parity else 5)

    @torch.no_grad()
    def logits(slot: int) -> Tensor:
        return strategy.model(memory.columns["x"][slot][None], int(memory.heads[slot]))[0]

    squares = [float((logits(i) - targets[i]).square().mean()) for i in first.tolist()]
    entropies = [float(F.cross_entropy(logits(i), memory.columns["y"][i])) for i in second.tolist()]
    expected = 0.3 * sum(squares) / len(squares) + 0.7 * sum(entropies) / len(entropies)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert set(memory.kept_bytes()) == {"memory", "memory_logits"}


def test_own_mse_leaves_absent_columns_out() -> None:
    stored = torch.tensor([[1.0, 2.0, ABSENT], [1.0, 2.0, 3.0]])
    logits = torch.tensor([[2.0, 2.0, ABSENT, ABSENT], [1.0, 2.0, 0.0, ABSENT]], requires_grad=True)
    loss = own_mse(logits, stored)
    assert float(loss.detach()) == pytest.approx((1 / 2 + 9 / 3) / 2)
    loss.backward()
    assert logits.grad is not None and (logits.grad[:, 3] == 0).all() and logits.grad[0, 2] == 0
    assert float(own_mse(torch.tensor([[2.0, 2.0]]), stored[:1])) == 0.5


@pytest.mark.parametrize("cls", METHODS)
def test_the_first_task_is_plain_training(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3))
    ours, plain = (train(build(c, benchmark, tiny), benchmark, 1).model.state_dict() for c in (cls, NCL))
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


@pytest.mark.parametrize("cls", METHODS)
def test_heads_neither_current_nor_replayed_do_not_move(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2, 2, 3))
    strategy = train(build(cls, benchmark, tiny, memory_share=0.1), benchmark, 3)
    memory, heads = strategy.plugins[0].memory, strategy.model.heads.linears
    memory.indices = lambda size: (memory.tasks > 0).nonzero().flatten()  # tasks 1 and 2, not 0
    before = [head.weight.detach().clone() for head in heads]
    strategy.train(benchmark.train_stream[3], eval_streams=[])
    moved = [not torch.equal(head.weight, kept) for head, kept in zip(heads, before, strict=True)]
    assert moved == [False, True, True, True, False]


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_and_domain_incremental(cls: Any, precision: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2))
    strategy = build(cls, benchmark, tiny, precision=precision, memory_share=0.1, clip_norm=1.0)
    strategy = train(strategy, benchmark, 2)
    assert all(p.isfinite().all() for p in strategy.model.parameters())
    memory = strategy.plugins[0].memory
    assert sorted(memory.tasks[: len(memory)].tolist()) == [0] * 6 + [1] * 6
    assert memory.draw().task_labels == 0
    assert strategy.kept_bytes(2)["memory"] == memory.kept_bytes()["memory"]


def test_scaled_reference_gradient_equals_the_plain_one(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3))
    strategy = train(build(AGEM, benchmark, tiny, memory_share=0.1), benchmark, 2)
    strategy.model.eval()
    parameters, replayed = list(trainable(strategy.model).values()), strategy.plugins[0].memory.draw()
    plain = reference_gradient(strategy, parameters, replayed)[0]
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.testing.assert_close(reference_gradient(strategy, parameters, replayed)[0], plain)
    strategy.precision, strategy.scaler = "fp16", torch.amp.GradScaler("cpu", init_scale=2.0**40)
    assert not reference_gradient(strategy, parameters, replayed)[0].any()  # overflows: no constraint


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_work_under_avalanches_own_naive(plugin: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))
    torch.manual_seed(1)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    memory = plugin(memory_share=0.1)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=1,
        plugins=[memory],
        evaluator=None,
    )
    train(strategy, benchmark, 2)
    head = model.heads.linears[0].weight.detach().clone()
    strategy.train(benchmark.train_stream[2], eval_streams=[])
    assert len(memory.memory) == 18
    assert all(p.isfinite().all() for p in model.parameters())
    if plugin is DERPPPlugin:
        assert not torch.equal(model.heads.linears[0].weight, head)


def test_unused_heads_are_out_of_the_graph(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = train(build(DERPP, benchmark, tiny, memory_share=0.1), benchmark, 2)
    replayed = strategy.plugins[0].memory.draw().on_device(strategy)
    logits = logits_of(strategy, replayed.x, replayed.task_labels)
    found = torch.autograd.grad(logits.sum(), list(strategy.model.heads.parameters()), allow_unused=True)
    assert [g is not None for g in found] == [True] * 4 + [False] * 2
