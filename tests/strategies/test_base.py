"""The shared template: optimizer, schedule, clipping, precision; NCL, ONE and MTL."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch

from nlpcl.models import build_model
from nlpcl.runs.fit import fit
from nlpcl.strategies.hat import HAT
from nlpcl.strategies.mtl import MTL
from nlpcl.strategies.ncl import NCL
from nlpcl.strategies.one import ONE
from nlpcl.training.forward import logits_of
from nlpcl.training.optimizers import linear_schedule, new_optimizer, original_schedule, uncorrected
from nlpcl.training.strategy import ContinualStrategy


def build(cls: Any, benchmark: Any, tiny: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    settings = {"train_mb_size": 8, "train_epochs": 4, **options}
    return cls(model=model, optimizer=optimizer, **settings)


def test_schedule_rises_and_falls() -> None:
    factors = [linear_schedule(step, 20, 0.1) for step in range(20)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2] < 1
    assert all(0 < f <= 1 for f in factors)
    drops = [a - b for a, b in pairwise(factors[2:])]
    assert all(abs(d - drops[0]) < 1e-9 for d in drops)


@pytest.mark.parametrize("total", [1, 7])
def test_a_schedule_may_rise_to_the_end(total: int) -> None:
    """(step + 1) / total and (step / total)^2 with warmup=1; after the last step torch asks once more."""
    assert [linear_schedule(step, total, 1.0) for step in range(total)] == [(i + 1) / total for i in range(total)]
    original = [original_schedule(step, total, 1.0) for step in range(total + 1)]
    assert original == [*((step / total) ** 2 for step in range(total)), 0.0]
    assert original_schedule(total, total, 0.5) == 0.0


def test_new_optimizer_groups() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    net[1].requires_grad_(False)
    gates = torch.nn.Parameter(torch.ones(4))
    template = torch.optim.AdamW([{"params": net[0].parameters(), "lr": 0.5}], lr=0.1, weight_decay=0.01)
    made = new_optimizer(template, net, [{"params": [gates], "weight_decay": 0.0, "lr": 7.0}])
    of = {id(p): group for group in made.param_groups for p in group["params"]}
    assert (of[id(net[0].weight)]["lr"], of[id(net[0].weight)]["weight_decay"]) == (0.5, 0.01)
    assert (of[id(net[0].bias)]["lr"], of[id(net[0].bias)]["weight_decay"]) == (0.5, 0.0)
    assert (of[id(net[2].weight)]["lr"], of[id(net[2].weight)]["weight_decay"]) == (0.1, 0.01)
    assert of[id(gates)]["lr"] == 7.0
    assert id(net[1].weight) not in of
    assert isinstance(made, torch.optim.AdamW) and not made.state


def test_each_experience_has_a_fresh_optimizer(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of()
    strategy = build(NCL, benchmark, tiny)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    first = strategy.optimizer
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert strategy.optimizer is not first
    assert all(float(state["step"]) == 32 for state in strategy.optimizer.state.values())


def test_frozen_encoder_does_not_move(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of()
    strategy = build(NCL, benchmark, tiny)
    frozen = {n: p.clone() for n, p in strategy.model.named_parameters() if not p.requires_grad}
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert all(torch.equal(frozen[n], p) for n, p in strategy.model.named_parameters() if n in frozen)
    assert len(frozen) > 20


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(precision: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of()
    strategy = build(NCL, benchmark, tiny, precision=precision, clip_norm=1.0)
    before = strategy.model.heads.linears[0].weight.detach().clone()
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
    assert not torch.equal(before, strategy.model.heads.linears[0].weight)


def test_clipping_bounds_the_step_of_plain_sgd(benchmark_of: Any, tiny: str) -> None:
    """With SGD a step is lr times the clipped gradient, so no longer than lr times the bound."""
    benchmark = benchmark_of()
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    lr, bound = 0.5, 0.01
    strategy = ContinualStrategy(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=lr), train_mb_size=64, clip_norm=bound
    )
    before = [p.detach().clone() for p in model.parameters()]
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    moved = sum(float((p.detach() - b).square().sum()) for p, b in zip(model.parameters(), before, strict=True)) ** 0.5
    assert 0.9 * lr * bound < moved <= 1.001 * lr * bound


def test_one_restarts_from_the_initial_model(benchmark_of: Any, tiny: str) -> None:
    """Trained on tasks 0 and 1, ONE's model for task 1 is that of training on task 1 alone."""
    benchmark = benchmark_of("til", (2, 2))
    both, alone = build(ONE, benchmark, tiny), build(ONE, benchmark, tiny)
    both.train(benchmark.train_stream[0], eval_streams=[])
    for strategy in (both, alone):
        torch.manual_seed(5)
        strategy.train(benchmark.train_stream[1], eval_streams=[])
    for (name, p), q in zip(both.model.named_parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_which_cells_each_protocol_fills(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))

    def filled(cls: Any, mode: Any = "seen") -> list[list[bool]]:
        matrix = fit(build(cls, benchmark, tiny, train_epochs=1), benchmark, eval=mode)
        assert (matrix.initial is not None) == (mode == "full")
        return [[cell is not None for cell in row] for row in matrix.accuracy]

    assert filled(NCL) == [[c <= r for c in range(3)] for r in range(3)]
    assert filled(NCL, "full") == [[True] * 3] * 3
    assert filled(NCL, "final") == [[False] * 3, [False] * 3, [True] * 3]
    assert filled(ONE) == [[c == r for c in range(3)] for r in range(3)]
    assert filled(MTL) == [[False] * 3, [False] * 3, [True] * 3]


def test_what_comes_after_fit_leaves_its_result_alone(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3))
    strategy = build(NCL, benchmark, tiny, train_epochs=1)
    first = fit(strategy, benchmark)
    before = deepcopy((first.accuracy, first.macro_f1, first.initial))
    with torch.no_grad():
        for p in strategy.model.heads.parameters():
            p.neg_()
    strategy.eval(benchmark.test_stream)
    second = fit(strategy, benchmark, eval="full")
    assert (first.accuracy, first.macro_f1, first.initial) == before
    assert second.initial is not None and first not in strategy.evaluator.metrics


def test_a_subclass_is_driven_as_its_base(benchmark_of: Any, tiny: str) -> None:
    class Alone(ONE):
        pass

    class Jointly(MTL):
        pass

    benchmark = benchmark_of("til", (2, 2))
    for cls, cells in ((Alone, [[True, False], [False, True]]), (Jointly, [[False] * 2, [True] * 2])):
        matrix = fit(build(cls, benchmark, tiny, train_epochs=1), benchmark)
        assert [[cell is not None for cell in row] for row in matrix.accuracy] == cells


def test_mtl_sees_every_example_once_an_epoch_in_mixed_batches(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3))
    strategy = build(MTL, benchmark, tiny, train_epochs=1)
    seen: list[int] = []
    mixed: list[bool] = []
    forward = strategy.forward

    def spy() -> Any:
        if strategy.is_training:
            seen.extend(strategy.mb_task_id.tolist())
            mixed.append(len(set(strategy.mb_task_id.tolist())) == 2)
        return forward()

    strategy.forward = spy
    fit(strategy, benchmark)
    assert sorted(seen) == [0] * 64 + [1] * 64
    assert any(mixed)


def test_original_schedule_is_adam_without_bias_correction_on_two_schedules() -> None:
    """Against BERT's own optimizer written out: m / (sqrt(v) + eps) times lr w1(x) w2(x)."""
    total, warmup, lr = 20, 0.1, 1e-2
    torch.manual_seed(0)
    gradients = torch.randn(total, 5)
    p = torch.nn.Parameter(torch.zeros(5))
    adam = torch.optim.AdamW([p], lr=lr, weight_decay=0.0, eps=1e-12)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: original_schedule(step, total, warmup) * uncorrected(step, (0.9, 0.999))
    )
    by_hand, m, v = torch.zeros(5), torch.zeros(5), torch.zeros(5)
    for step, grad in enumerate(gradients):
        p.grad = grad.clone()
        adam.step()
        scheduler.step()
        x = step / total
        w1 = x / warmup if x < warmup else 1 - x
        w2 = x / warmup if x < warmup else (1 - x) / (1 - warmup)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        by_hand = by_hand - lr * w1 * w2 * m / v.sqrt()
    torch.testing.assert_close(p.detach(), by_hand)


def test_parity_clips_each_tensor_on_its_own(benchmark_of: Any, tiny: str) -> None:
    strategy = build(NCL, benchmark_of(), tiny, clip_norm=0.5, parity=True)
    assert strategy.model.backbone.parity
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    first.grad, second.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.1])
    strategy._clipped, strategy.optimizer = [first, second], torch.optim.SGD([first, second], lr=1.0)
    strategy.optimizer_step()
    torch.testing.assert_close(first.detach(), -torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(second.detach(), -torch.tensor([0.0, 0.1]))


def test_kept_bytes_grow_by_gates_and_head(benchmark_of: Any, tiny: str) -> None:
    """A float32 per gate and per weight of the head; what all tasks share does not grow."""
    benchmark = benchmark_of("til", (2, 3))
    strategy = build(HAT, benchmark, tiny)
    units = sum(site.width for site in strategy.model.backbone.sites())
    first, second = strategy.kept_bytes(1), strategy.kept_bytes(2)
    assert first["parameters"] == second["parameters"]
    assert first["gates"] == 4 * 2 * units and second["gates"] - first["gates"] == 4 * units
    assert second["heads"] - first["heads"] == 4 * (32 * 3 + 3)
    ncl = build(NCL, benchmark, tiny)
    everything = sum(p.numel() * 4 for p in ncl.model.parameters())
    assert ncl.kept_bytes(2) == {"parameters": everything - second["heads"], "heads": second["heads"]}


def test_heads_and_logits_stay_in_float32(benchmark_of: Any, tiny: str) -> None:
    """Under bf16 only the backbone computes in it: the logits are no bf16 numbers."""
    strategy = build(NCL, benchmark_of(), tiny, precision="bf16")
    strategy.train(benchmark_of().train_stream[0], eval_streams=[])
    x = torch.stack([benchmark_of().test_stream[0].dataset[i][0] for i in range(8)])
    logits = logits_of(strategy, x, 0)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_parity_undoes_adams_correction_without_a_schedule_too(benchmark_of: Any, tiny: str) -> None:
    strategy = build(NCL, benchmark_of(), tiny, parity=True, schedule="constant", train_epochs=1)
    strategy.train(benchmark_of().train_stream[0], eval_streams=[])
    steps = 64 // 8
    for group in strategy.optimizer.param_groups:
        assert group["lr"] == pytest.approx(5e-3 * (1 - 0.9 ** (steps + 1)) / (1 - 0.999 ** (steps + 1)) ** 0.5)
