"""SRK: cell, fusion, loss, control sums and factors against plain loops; its steps; learning."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.models import build_model
from nlpcl.strategies.srk import (
    SRK,
    SqueezedGRU,
    SRKNet,
    SRKPlugin,
    control_sums,
    free_share,
    keeper_factors,
    squeeze,
    squeezed_states,
    update_factors,
)
from tests.helpers.plugins import plugin_of
from tests.helpers.text_tasks import make_tasks
from tests.helpers.training import Spy

LENGTHS = [6, 3, 1]
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]


def cell_loop(cell: SqueezedGRU, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States and r h_n (L, H) of one text (L, C), unit by unit."""
    size = cell.h2h.in_features
    h, states, candidates = torch.zeros(size), [], []
    for token in x:
        new, candidate = [], []
        for j in range(size):
            x_r, x_i, x_n = (cell.x2h.weight[j + k * size] @ token + cell.x2h.bias[j + k * size] for k in range(3))
            h_r, h_i, h_n = (cell.h2h.weight[j + k * size] @ h + cell.h2h.bias[j + k * size] for k in range(3))
            r, i = torch.sigmoid(x_r + h_r), torch.sigmoid(x_i + h_i)
            n = x_n + r * h_n
            n = 0.001 * n if n < 0 else 0.9 + 0.001 * (n - 0.9) if n > 0.9 else n
            new.append(n + i * (h[j] - n))
            candidate.append(r * h_n)
        h = torch.stack(new)
        states.append(h)
        candidates.append(torch.stack(candidate))
    return torch.stack(states), torch.stack(candidates)


def test_the_cells_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    cells, x = [SqueezedGRU(5, 4), SqueezedGRU(5, 4)], 2 * torch.randn(3, 6, 5)
    with torch.no_grad():
        states, candidates = squeezed_states(cells, x)
        for cell, some_states, some_candidates in zip(cells, states, candidates, strict=True):
            for row in range(3):
                expected = cell_loop(cell, x[row])
                torch.testing.assert_close(some_states[row], expected[0])
                torch.testing.assert_close(some_candidates[row], expected[1])


def test_the_cells_gradients_are_those_of_the_plain_loop() -> None:
    torch.manual_seed(0)
    cells, x = [SqueezedGRU(5, 4), SqueezedGRU(5, 4)], 2 * torch.randn(3, 6, 5)
    weights, leaves = torch.randn(2, 3, 6, 4), [x.requires_grad_(), *(p for cell in cells for p in cell.parameters())]
    found = torch.autograd.grad((squeezed_states(cells, x)[0] * weights).sum(), leaves)
    loops = torch.stack([torch.stack([cell_loop(cell, text)[0] for text in x]) for cell in cells])
    torch.testing.assert_close(found, torch.autograd.grad((loops * weights).sum(), leaves))


def test_squeeze_and_its_slope() -> None:
    n = torch.tensor([-2.0, -0.1, 0.0, 0.4, 0.9, 1.9], requires_grad=True)
    out = squeeze(n)
    torch.testing.assert_close(out.detach(), torch.tensor([-0.002, -0.0001, 0.0, 0.4, 0.9, 0.901]))
    out.sum().backward()
    assert n.grad is not None
    torch.testing.assert_close(n.grad[[0, 1, 3, 5]], torch.tensor([0.001, 0.001, 1.0, 0.001]))


def test_fusion_parts_and_control_sums_against_plain_loops() -> None:
    torch.manual_seed(0)
    net, x = SRKNet(5, 4, 0.0).train(), torch.randn(3, 6, 5)
    with torch.no_grad():
        h = net(x, MASK)
        (learnt, kept), sums = net.take_parts()
        inputs, units, candidates = torch.zeros(5), torch.zeros(4), torch.zeros(4)
        for row, length in enumerate(LENGTHS):
            text = x[row, :length]
            h_f = cell_loop(net.learner, text)[0][-1]
            states, r_h = cell_loop(net.keeper, text)
            h_k = states[-1]
            g = torch.sigmoid(net.from_learner.weight @ h_f + net.from_keeper.weight @ h_k)
            torch.testing.assert_close(learnt[row], h_f)
            torch.testing.assert_close(kept[row], h_k)
            torch.testing.assert_close(h[row], (1 - g) * h_f + g * h_k)
            inputs += text.sum(dim=0)
            units += torch.cat([torch.zeros(1, 4), states[:-1]]).sum(dim=0)
            candidates += r_h.sum(dim=0)
    torch.testing.assert_close(sums, torch.cat([inputs, units, candidates]))
    assert not net.sums.any()  # only steps of training count


def test_nothing_depends_on_padding() -> None:
    torch.manual_seed(0)
    net, x = SRKNet(5, 4, 0.0).train(), torch.randn(3, 6, 5)
    h = net(x, MASK)
    sums = net.take_parts()[1]
    other = torch.where(MASK[..., None], x, 100 * torch.randn_like(x))
    longer = torch.cat([other, torch.randn(3, 4, 5)], dim=1)
    torch.testing.assert_close(net(longer, torch.cat([MASK, torch.zeros(3, 4, dtype=torch.bool)], dim=1)), h)
    torch.testing.assert_close(net.take_parts()[1], sums)


@pytest.mark.parametrize("share", [0.1, 0.55, 1.0])
def test_factors_belong_to_their_units(share: float) -> None:
    torch.manual_seed(0)
    sums = torch.rand(20) * 7
    control = [(float(s) - float(sums.min())) / float(sums.max() - sums.min()) for s in sums]
    free = sorted(range(20), key=lambda j: control[j])[: math.floor(share * 20)]
    expected = torch.tensor([1 - control[j] if j in free else 0.0 for j in range(20)])
    torch.testing.assert_close(update_factors(sums, share), expected)


def test_equal_sums_leave_all_factors_finite() -> None:
    assert torch.equal(update_factors(torch.full((4,), 3.0), 0.5).sort().values, torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_the_free_share_falls_from_all_to_a_tenth() -> None:
    assert free_share(0) == 1.0
    assert free_share(5) == pytest.approx(0.9 * math.exp(-0.5) + 0.1)
    assert free_share(1000) == pytest.approx(0.1)


def test_factors_of_the_parameters_entry_by_entry() -> None:
    torch.manual_seed(0)
    cell, sums = SqueezedGRU(5, 4), [torch.rand(5), torch.rand(4), torch.rand(4)]
    inputs, units, candidates = (update_factors(total, 0.8) for total in sums)
    factors = {p: factor.expand_as(p) for p, factor in keeper_factors(cell, torch.cat(sums), 0.8).items()}
    assert set(factors) == set(cell.parameters())
    for row in range(12):
        assert torch.equal(factors[cell.x2h.weight][row], inputs)
        assert torch.equal(factors[cell.h2h.weight][row], units)
        expected = candidates[row - 8] if row >= 8 else units[row % 4]
        assert factors[cell.x2h.bias][row] == factors[cell.h2h.bias][row] == expected


def build(benchmark: Any, tiny: str, optimizer: str = "AdamW", **options: Any) -> SRK:
    torch.manual_seed(1)
    model = build_model(benchmark, backbone="bert_frozen", encoder=tiny, net="gru", dropout=0.0)
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-2, weight_decay=0.1)
    return SRK(model=model, optimizer=made, **{"train_mb_size": 8, "train_epochs": 1, **options})


def expected_step(strategy: SRK, batch: Any, factors: dict[nn.Parameter, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Net K's parameters after a step of SGD with weight decay 0.1, from the equations."""
    model, net, task = strategy.model, plugin_of(strategy, SRKPlugin).net, strategy.experience.current_experience
    x, y, _ = batch
    h = net(*model.backbone.tokens(x, task))
    loss = sum(nn.functional.cross_entropy(model.heads(part, task), y) for part in [h, *net.take_parts()[0]])
    grads = torch.autograd.grad(loss, list(net.keeper.parameters()))
    found = {}
    for (name, p), grad in zip(net.keeper.named_parameters(), grads, strict=True):
        decay = 0.1 * p.detach() if p.dim() == 2 else 0.0
        found[name] = p.detach() - 1e-2 * factors.get(p, torch.ones(())) * (grad + decay)
    return found


def test_steps_of_two_tasks(benchmark_of: Any, tiny: str) -> None:
    """Loss, sums and factors: each step is that of the equations, the second task's under what the first one used."""
    benchmark = benchmark_of("til", (2, 3), 24)
    strategy = build(benchmark, tiny, "SGD")
    net, sums = plugin_of(strategy, SRKPlugin).net, torch.zeros(3 * 32)
    expected: list[dict[str, torch.Tensor]] = []
    factors: dict[nn.Parameter, torch.Tensor] = {}

    def before(strategy: Any) -> None:
        assert strategy.mbatch is not None
        vectors, mask = strategy.model.backbone.tokens(strategy.mb_x, 0)
        states, candidates = squeezed_states([net.keeper], vectors)
        sums.add_(control_sums(vectors, states[0], candidates[0], mask).abs())
        expected.append(expected_step(strategy, strategy.mbatch, factors))

    def after(strategy: Any) -> None:
        for name, p in net.keeper.named_parameters():
            torch.testing.assert_close(p.detach(), expected[-1][name], atol=1e-6, rtol=1e-5)

    strategy.plugins.insert(0, Spy("before_forward", before))
    strategy.plugins.append(Spy("after_update", after))
    for task, experience in enumerate(benchmark.train_stream):
        if task > 0:
            factors.update(keeper_factors(net.keeper, sums.clone(), free_share(task)))
        strategy.train(experience, eval_streams=[])
        torch.testing.assert_close(net.sums, sums)
    assert len(expected) == 6


def test_what_is_not_free_stays_bit_for_bit_with_adam_and_decay(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), 24)
    strategy = build(benchmark, tiny, clip_norm=1.0)
    net = plugin_of(strategy, SRKPlugin).net
    keeper = net.keeper
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    before = [p.detach().clone() for p in keeper.parameters()]
    factors = keeper_factors(keeper, net.sums.clone(), free_share(1))
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    for p, old in zip(keeper.parameters(), before, strict=True):
        free = (factors[p] > 0).expand_as(p)
        assert 0 < free.float().mean() < 1
        assert torch.equal(p[~free], old[~free])
        assert (p[free] != old[free]).any()


def test_steps_are_held_back_whatever_the_optimizer(benchmark_of: Any, tiny: str) -> None:
    """Adam's first step is +-lr for every entry with a gradient, so an entry of factor f moves by f lr."""
    benchmark = benchmark_of("til", (2, 2), 8)
    torch.manual_seed(1)
    model = build_model(benchmark, backbone="bert_frozen", encoder=tiny, net="gru", dropout=0.0)
    strategy = SRK(model=model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-30), train_mb_size=8)
    net = plugin_of(strategy, SRKPlugin).net
    keeper = net.keeper
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    before = [p.detach().clone() for p in keeper.parameters()]
    factors = keeper_factors(keeper, net.sums.clone(), free_share(1))
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    for p, old in zip(keeper.parameters(), before, strict=True):
        step = (p.detach() - old).abs()
        torch.testing.assert_close(step, 1e-2 * factors[p].expand_as(p), atol=1e-6, rtol=1e-4)


def test_a_copy_and_a_loaded_model_go_on_alike(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), 24)
    strategy, loaded = build(benchmark, tiny), build(benchmark, tiny)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    strategy.model.train()(torch.stack([benchmark.train_stream[0].dataset[0][0]]), 0)  # leaves parts with a graph
    copy = deepcopy(strategy)
    loaded.model.load_state_dict(strategy.model.state_dict())
    for each in (strategy, copy, loaded):
        torch.manual_seed(3)
        each.train(benchmark.train_stream[1], eval_streams=[])
    for other in (copy, loaded):
        state = other.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in strategy.model.state_dict().items())
    assert strategy.kept_bytes(2)["control_sums"] == 4 * 3 * 32


def test_it_learns_task_by_task(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    strategy = build(benchmark, tiny, train_epochs=6)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    results = strategy.eval([benchmark.test_stream[1]])
    assert next(value for name, value in results.items() if name.startswith("Top1_Acc_Exp")) > 0.75


def test_it_learns_domains(tiny: str) -> None:
    tasks = make_tasks((2, 2), flip=False)
    benchmark = text_benchmark_from_tasks(tasks, name="tiny", scenario="dil", tokenizer=tiny, max_length=32)
    strategy = build(benchmark, tiny, train_epochs=6)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    results = strategy.eval(list(benchmark.test_stream))
    assert min(value for name, value in results.items() if name.startswith("Top1_Acc_Exp")) > 0.75
