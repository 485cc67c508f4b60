"""Gates: forward, compensated gradient, sparsity loss, masks per sample."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from nlpcl.models.base import Context, Site
from nlpcl.models.gates import Gates, gate, sparsity

SMAX = 400.0


def test_gate_and_its_compensated_gradient() -> None:
    """dL/de as HAT writes it: q s sigma'(s e) * (smax / s) (cosh(s e) + 1) / (cosh(e) + 1)."""
    e = torch.linspace(-3, 3, 13, dtype=torch.double).requires_grad_()
    for s in (1 / SMAX, 1.0, 7.0):
        e.grad = None
        out = gate(e, s, SMAX)
        q = torch.randn(13, dtype=torch.double)
        (out * q).sum().backward()
        for i, value in enumerate(e.tolist()):
            sigma = 1 / (1 + math.exp(-s * value))
            raw = float(q[i]) * s * sigma * (1 - sigma)
            expected = raw * SMAX / s * (math.cosh(s * value) + 1) / (math.cosh(value) + 1)
            assert math.isclose(float(out[i].detach()), sigma, rel_tol=1e-12)
            assert math.isclose(float(e.grad[i]), expected, rel_tol=1e-6)  # type: ignore[index]


def test_gradient_is_finite_where_cosh_overflows() -> None:
    e = torch.tensor([-6.0, 6.0], requires_grad=True)
    gate(e, SMAX, SMAX).sum().backward()
    assert torch.isfinite(e.grad).all()  # type: ignore[arg-type]


def test_sparsity_against_a_plain_loop() -> None:
    a, used = torch.rand(6), torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0, 0.2])
    top = sum(float(x) * (1 - float(u)) for x, u in zip(a, used, strict=True))
    assert math.isclose(float(sparsity(a, used)), top / sum(1 - float(u) for u in used), rel_tol=1e-6)
    assert float(sparsity(a, torch.ones(6))) == 0


def make_gates() -> tuple[nn.Sequential, Gates, Context]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU())
    sites = [
        Site("l0", net[0], net[1], 5, inputs=((None, 4),)),
        Site("l1", net[2], net[3], 3, inputs=(("l0", 1),)),
    ]
    context = Context()
    return net, Gates(sites, context, 3, SMAX, 0.0, 1.0, soft=False), context


def test_hooks_gate_each_site_and_each_sample() -> None:
    net, gates, context = make_gates()
    for task in range(3):
        gates.begin(task)
        gates.end()
    gates.eval()
    x, tasks = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    context.start(tasks)
    mixed = net(x)
    for row, task in enumerate(tasks.tolist()):
        masks = (gates.embeddings[task] > 0).float().split([5, 3])
        expected = net[2](net[0](x[row]).relu() * masks[0]).relu() * masks[1]
        torch.testing.assert_close(mixed[row], expected)
        context.start(task)
        torch.testing.assert_close(net(x[row : row + 1])[0], expected)


def test_cumulative_mask_is_the_maximum_of_the_hard_masks() -> None:
    _, gates, _ = make_gates()
    for task in range(2):
        gates.begin(task)
        undecided = gates.end()
        assert 0 <= undecided <= 1
    expected = torch.maximum((gates.embeddings[0] > 0).float(), (gates.embeddings[1] > 0).float())
    torch.testing.assert_close(gates.used, expected)


def test_undecided_share_counts_gates_between_the_bounds() -> None:
    _, gates, _ = make_gates()
    with torch.no_grad():
        gates.embeddings[0].fill_(1.0)
        gates.embeddings[0][:2] = 0.001
    gates.begin(0)
    assert gates.end() == 2 / 8


def test_a_model_with_gates_can_be_copied_after_a_forward_pass() -> None:
    net, gates, context = make_gates()
    gates.begin(0)
    context.start(0)
    net(torch.randn(2, 4))
    copied = copy.deepcopy(nn.ModuleList([net, gates]))
    assert len(list(copied.parameters())) == len(list(net.parameters())) + 3
