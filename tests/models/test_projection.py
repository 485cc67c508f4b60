"""Projectors: the block recursion, patches, and layers that answer known inputs as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nlpcl.strategies.owm import BLOCK, Projector, batch_inputs, example_means, joined, layer_inputs

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 5), (12,)),
    "linear on tokens": (lambda: nn.Linear(12, 5), (3, 12)),
    "linear without bias": (lambda: nn.Linear(12, 5, bias=False), (12,)),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3), (4, 6)),
    "conv1d strided": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1, dilation=2), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 2), (3, 3, 4)),
    "conv2d strided": (lambda: nn.Conv2d(3, 5, (2, 3), stride=2, padding=1, bias=False), (3, 5, 6)),
}


def one_at_a_time(p: Tensor, x: Tensor, alpha: float) -> Tensor:
    """Zeng et al. 2019: k = P x; P <- P - k k' / (alpha + x' k)."""
    for row in x.double():
        k = p @ row
        p = p - torch.outer(k, k) / (alpha + row @ k)
    return p


def loop_inputs(module: Any, x: Tensor) -> Tensor:
    """Patches (n, d - 1) of one example by slicing; only without padding, stride and dilation."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, module.in_features)
    if isinstance(module, nn.Conv1d):
        size = module.kernel_size[0]
        return torch.stack([x[:, i : i + size].flatten() for i in range(x.shape[1] - size + 1)])
    high, wide = module.kernel_size
    places = [(i, j) for i in range(x.shape[1] - high + 1) for j in range(x.shape[2] - wide + 1)]
    return torch.stack([x[:, i : i + high, j : j + wide].flatten() for i, j in places])


@pytest.mark.parametrize("n", [1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("alpha", [1.0, 1e-3, 1e-6])
def test_blocks_equal_one_input_at_a_time(n: int, alpha: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(n, 20)
    projector = Projector(nn.Linear(20, 2, bias=False))
    expected = torch.eye(20, dtype=torch.float64)
    for part in x.split(50):
        projector.update(part, alpha)
        expected = one_at_a_time(expected, part, alpha)
    torch.testing.assert_close(projector.p, expected, atol=1e-9, rtol=1e-6)
    closed = alpha * torch.linalg.inv(alpha * torch.eye(20) + x.double().T @ x.double())
    torch.testing.assert_close(projector.p, closed, atol=1e-9, rtol=1e-5)
    assert torch.equal(projector.p, projector.p.T)
    assert torch.equal(projector.applied, projector.p.float())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_inputs_times_its_weights(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer: Any = make()
    x = torch.randn(2, *shape)
    rows = layer_inputs(layer, x)
    out = rows @ joined(*layer.parameters()).T
    expected = layer(x) if isinstance(layer, nn.Linear) else layer(x).flatten(2).mT
    torch.testing.assert_close(out.reshape(expected.shape), expected)
    if "strided" not in name:
        assert torch.equal(rows[1, :, : layer.weight[0].numel()], loop_inputs(layer, x[1]))


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("name", LAYERS)
def test_known_inputs_keep_their_outputs(name: str, optimizer: str) -> None:
    """Fewer known inputs than columns; momentum and weight decay on."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer: Any = make()
    known, other = torch.randn(1, *shape), torch.randn(1, *shape)
    projector = Projector(layer)
    rows = layer_inputs(layer, known)[0]
    assert len(rows) < len(projector.p)
    projector.update(rows, 1e-6)
    old_known, old_other = layer(known).detach(), layer(other).detach()
    step: Any = (
        torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.5)
        if optimizer == "AdamW"
        else torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    )
    for _ in range(3):
        step.zero_grad()
        layer(torch.randn(4, *shape)).square().sum().backward()
        before = projector.values()
        step.step()
        projector.project_change(before)
    assert float((layer(known) - old_known).detach().abs().max()) < 1e-4
    assert float((layer(other) - old_other).detach().abs().max()) > 1e-2
    if layer.bias is not None:
        assert not torch.equal(layer.bias, before[:, -1])  # the bias moves, too


def test_the_gradient_is_projected_and_may_be_absent() -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(3, 4, 2)
    projector = Projector(layer)
    projector.update(torch.randn(3, 7), 0.1)
    projector.project_gradient()
    assert layer.weight.grad is None
    layer(torch.randn(2, 3, 5)).sum().backward()
    grad = joined(layer.weight.grad, layer.bias.grad)  # type: ignore[arg-type,union-attr]
    projector.project_gradient()
    expected = grad.double() @ projector.p
    torch.testing.assert_close(joined(layer.weight.grad, layer.bias.grad).double(), expected, atol=1e-6, rtol=0)  # type: ignore[arg-type,union-attr]


def test_means_are_over_real_positions() -> None:
    """Linear: real tokens. Convolution: windows within the text, or the first one of a shorter text."""
    torch.manual_seed(0)
    lengths, size = [5, 2, 1], 3
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    linear, convolution = nn.Linear(4, 2), nn.Conv1d(4, 2, size)
    x = torch.randn(3, 8, 4) * mask[:, :, None]
    padded = nn.functional.pad(x.mT, (0, 4))
    means, patch_means = example_means(linear, x, mask), example_means(convolution, padded, mask)
    positions = batch_inputs(convolution, padded, mask)
    for b, length in enumerate(lengths):
        expected = torch.stack([x[b, i] for i in range(length)]).mean(0)
        torch.testing.assert_close(means[b], torch.cat([expected, torch.ones(1)]))
        windows = [padded[b, :, i : i + size].flatten() for i in range(max(1, length - size + 1))]
        torch.testing.assert_close(patch_means[b], torch.cat([torch.stack(windows).mean(0), torch.ones(1)]))
    torch.testing.assert_close(positions[0, :-1], padded[:, :, :size].flatten(1).mean(0))
    torch.testing.assert_close(positions[2, :-1], padded[0, :, 2 : 2 + size].flatten())
    assert torch.equal(positions[:, -1], torch.tensor([1.0] * 3 + [0.0] * 7))
    torch.testing.assert_close(batch_inputs(linear, x, mask), means.mean(0, keepdim=True))
    pooled = x[:, 0]
    torch.testing.assert_close(example_means(linear, pooled, mask)[:, :-1], pooled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(example_means(linear, x, mask), means)
        assert torch.equal(example_means(convolution, padded, mask), patch_means)


def test_padding_rows_leave_the_projector_as_it_is() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    alone, padded = Projector(nn.Linear(6, 2, bias=False)), Projector(nn.Linear(6, 2, bias=False))
    alone.update(x, 1e-3)
    padded.update(torch.cat([x, torch.zeros(40, 6)]), 1e-3)
    torch.testing.assert_close(alone.p, padded.p)
