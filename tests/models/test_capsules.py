"""CTR's routing against a loop written from the equations, one sample, token, task and capsule at a time."""

from __future__ import annotations

import math

import pytest
import torch

from nlpcl.models.base import Context
from nlpcl.strategies.capsules.capsules import (
    KERNELS,
    CapsuleAdapter,
    DynamicRouting,
    MaxConvolution,
    TaskCapsules,
    TransferRouting,
    squash,
)

H, T, SIZE, CAPS, FILTERS, L = 7, 4, 3, 3, 5, 9


def loop_squash(v: list[float]) -> list[float]:
    square = sum(c * c for c in v)
    return [square / (1 + square) * c / math.sqrt(square) for c in v]


def loop_convolution(module, u: list[list[float]]) -> list[float]:  # type: ignore[no-untyped-def]
    """Every output of a convolution over the real positions `u` with K - 2 zeros at both ends, then the maximum."""
    best = []
    for kernel, convolution in zip(KERNELS, module.convolutions, strict=True):
        pad = [[0.0] * len(u[0])] * (kernel - 2)
        padded = torch.tensor(pad + u + pad)
        for f in range(FILTERS):
            weight, bias = convolution.weight[f], convolution.bias[f]
            outs = [float((padded[i : i + kernel].T * weight).sum() + bias) for i in range(len(padded) - kernel + 1)]
            best.append(max(outs))
    return best


def loop_routing(routing: TransferRouting, u: torch.Tensor, t: int, length: int) -> torch.Tensor:
    """The equations for one sample: u is (L, T, CAPS, SIZE)."""
    votes = {k: [u[pos, k].flatten().tolist() for pos in range(length)] for k in range(t + 1)}
    q = torch.tensor(loop_convolution(routing.query, votes[t])).relu()
    v = [[0.0] * (CAPS * SIZE) for _ in range(length)]
    for k in range(t + 1):
        z = (torch.tensor(loop_convolution(routing.key, votes[k])) + routing.query_map(q)).relu()
        s = routing.similarity(z).tolist()
        logits = routing.decision(z)
        d = 1.0 if logits[0] > logits[1] else 0.0
        for pos in range(length):
            for c in range(CAPS * SIZE):
                v[pos][c] += d * s[c] * votes[k][pos][c]
    return routing.out(torch.tensor(v))


@pytest.fixture
def routing() -> TransferRouting:
    torch.manual_seed(3)
    routing = TransferRouting(H, SIZE, CAPS, FILTERS).eval()
    for linear in (routing.query_map, routing.similarity, routing.decision, routing.out):
        torch.nn.init.normal_(linear.weight, std=0.5)
        torch.nn.init.normal_(linear.bias, std=0.5)
    return routing


def test_squash_is_over_the_capsule_and_finite_at_zero() -> None:
    v = torch.randn(4, 5, 3)
    expected = torch.tensor([[loop_squash(c.tolist()) for c in row] for row in v])
    torch.testing.assert_close(squash(v), expected)
    zero = torch.zeros(2, 3, requires_grad=True)
    squash(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("task", range(T))
def test_transfer_routing_equals_the_equations(routing: TransferRouting, task: int) -> None:
    with torch.no_grad():
        p = torch.randn(3, L, T, CAPS, SIZE)
        lengths = [L, 4, 1]
        mask = torch.arange(L) < torch.tensor(lengths)[:, None]
        out = routing(p[:, :, : task + 1], task, mask)
        mixed = routing(p, torch.tensor([task] * 3), mask)
        for row, length in enumerate(lengths):
            expected = loop_routing(routing, p[row], task, length)
            torch.testing.assert_close(out[row, :length], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mixed[row, :length], expected, atol=1e-5, rtol=1e-5)


def test_the_largest_of_a_convolution_is_conv1d_and_max() -> None:
    """Values, with and without gradients, and the gradients themselves, of texts of several lengths."""
    torch.manual_seed(0)
    module = MaxConvolution(9, 7).double()
    u, lengths = torch.randn(6, 11, 9, dtype=torch.double, requires_grad=True), torch.tensor([11, 3, 1, 8, 10, 2])
    mask, direction = torch.arange(11) < lengths[:, None], torch.randn(6, 21, dtype=torch.double)
    wanted = torch.stack(
        [
            torch.cat([c(text[None, :n].mT).amax(2)[0] for c in module.convolutions])  # type: ignore[arg-type]
            for text, n in zip(u, lengths.tolist(), strict=True)
        ]
    )
    inputs = [u, *module.parameters()]
    found = module(u, mask)
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(module(u, mask), wanted)
    for ours, theirs in zip(
        *(torch.autograd.grad((v * direction).sum(), inputs) for v in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_each_decision_occurs(routing: TransferRouting) -> None:
    """Otherwise the comparison above would not have seen both branches."""
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert routing.decide(logits).tolist() == [1.0, 0.0]
    routing.train()
    draws = torch.stack([routing.decide(torch.zeros(1, 2)) for _ in range(64)])
    assert set(draws.flatten().tolist()) == {0.0, 1.0}


def test_routing_at_test_is_deterministic_and_later_tasks_have_no_say(routing: TransferRouting) -> None:
    p, mask = torch.randn(2, L, T, CAPS, SIZE), torch.ones(2, L, dtype=torch.bool)
    first = routing(p, torch.tensor([1, 2]), mask)
    torch.testing.assert_close(first, routing(p, torch.tensor([1, 2]), mask), atol=0, rtol=0)
    changed = p.clone()
    changed[:, :, 3] += 10
    torch.testing.assert_close(first, routing(changed, torch.tensor([1, 2]), mask))


def loop_dynamic_routing(
    routing: DynamicRouting, u: torch.Tensor, t: int, length: int, over_tasks: bool
) -> torch.Tensor:
    """Procedure 1 of the capsule paper for one sample: u is (L, T, CAPS, SIZE), couplings are the text's."""
    b = [[0.0] * CAPS for _ in range(t + 1)]
    for _ in range(3):
        if over_tasks:
            sums = [sum(math.exp(b[k][n]) for k in range(t + 1)) for n in range(CAPS)]
            c = [[math.exp(b[k][n]) / sums[n] for n in range(CAPS)] for k in range(t + 1)]
        else:
            c = [[math.exp(b[k][n]) / sum(map(math.exp, b[k])) for n in range(CAPS)] for k in range(t + 1)]
        v = [
            [[sum(c[k][n] * float(u[pos, k, n, i]) for k in range(t + 1)) for i in range(SIZE)] for n in range(CAPS)]
            for pos in range(length)
        ]
        squashed = [[loop_squash(capsule) for capsule in token] for token in v]
        for k in range(t + 1):
            for n in range(CAPS):
                for pos in range(length):
                    b[k][n] += sum(float(u[pos, k, n, i]) * squashed[pos][n][i] for i in range(SIZE))
    told = v if over_tasks else squashed
    return routing.out(torch.tensor([[x for capsule in token for x in capsule] for token in told]))


@pytest.mark.parametrize("over_tasks", [False, True])
@pytest.mark.parametrize("task", range(T))
def test_dynamic_routing_equals_the_equations(task: int, over_tasks: bool) -> None:
    torch.manual_seed(4)
    routing = DynamicRouting(H, SIZE, CAPS, over_tasks)
    torch.nn.init.normal_(routing.out.weight, std=0.5)
    with torch.no_grad():
        u = 0.5 * torch.randn(3, L, T, CAPS, SIZE)
        lengths = [L, 4, 1]
        mask = torch.arange(L) < torch.tensor(lengths)[:, None]
        out = routing(u[:, :, : task + 1], task, mask)
        mixed = routing(u, torch.tensor([task] * 3), mask)
        for row, length in enumerate(lengths):
            expected = loop_dynamic_routing(routing, u[row], task, length, over_tasks)
            torch.testing.assert_close(out[row, :length], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mixed[row, :length], expected, atol=1e-5, rtol=1e-5)


def test_task_capsules_against_a_plain_loop() -> None:
    torch.manual_seed(5)
    tasks = TaskCapsules(H, T, SIZE, CAPS)
    torch.nn.init.normal_(tasks.bias)
    x = torch.randn(2, 3, H)
    with torch.no_grad():
        votes = tasks(x, 3)
    tasks.requires_grad_(False)
    assert votes.shape == (2, 3, 3, CAPS, SIZE)
    for row in range(2):
        for pos in range(3):
            for k in range(3):
                mapped = [float((tasks.weight[k, i] * x[row, pos]).sum() + tasks.bias[k, i]) for i in range(SIZE)]
                p = torch.tensor(loop_squash(mapped))
                for n in range(CAPS):
                    expected = torch.stack([(tasks.route[k, n, i] * p).sum() for i in range(SIZE)])
                    torch.testing.assert_close(votes[row, pos, k, n], expected, atol=1e-5, rtol=1e-5)
    assert tasks.bytes_for(2) == 2 * 4 * (SIZE * H + SIZE + CAPS * SIZE * SIZE)


@pytest.mark.parametrize("kind", ["dynamic", "transfer"])
def test_adapter_output_does_not_depend_on_the_batch(kind: str) -> None:
    torch.manual_seed(0)
    context = Context()
    routing = DynamicRouting(H, SIZE, CAPS, False) if kind == "dynamic" else TransferRouting(H, SIZE, CAPS)
    adapter = CapsuleAdapter(H, 6, context, TaskCapsules(H, T, SIZE, CAPS), routing).eval()
    torch.nn.init.normal_(adapter.routing.out.weight)
    x, mask = torch.randn(5, L, H), torch.arange(L) < torch.tensor([9, 3, 5, 1, 7])[:, None]
    context.start(2, mask)
    together = adapter(x)
    for row in range(5):
        length = int(mask[row].sum())
        context.start(2, mask[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], adapter(x[row : row + 1, :length])[0], atol=1e-5, rtol=0)


def test_agreement_is_summed_in_float32_under_autocast() -> None:
    torch.manual_seed(6)
    routing = DynamicRouting(H, SIZE, CAPS, False)
    u, mask = torch.randn(2, 64, T, CAPS, SIZE), torch.ones(2, 64, dtype=torch.bool)
    plain = routing.route(u, T - 1, mask.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen: list[torch.Tensor] = []
        routing.out.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        routing(u, T - 1, mask)
    assert torch.equal(seen[0].unflatten(2, (CAPS, SIZE)), plain)
