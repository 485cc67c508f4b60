"""Bayesian layers: shape, initial variances, noise in training and none at test."""

from __future__ import annotations

import copy
from math import prod, sqrt
from typing import Any

import pytest
import torch
from torch import nn

from nlpcl.strategies.ucl import make_bayesian

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(30, 40), (30,)),
    "conv1d": (lambda: nn.Conv1d(30, 40, 3, padding=1, dilation=2), (30, 9)),
    "conv2d": (lambda: nn.Conv2d(30, 40, (3, 2), stride=2, padding_mode="circular", padding=1), (30, 9, 9)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_it_is_the_same_layer_at_test_and_noisy_in_training(kind: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    plain = make().eval()
    x = torch.randn(1, *shape).expand(5, *shape)
    wanted = plain(x)
    layer: Any = make_bayesian(copy.deepcopy(plain), 0.125, pretrained=True)
    assert isinstance(layer, type(plain)) and not layer.training
    assert repr(layer).partition("(")[2] == repr(plain).partition("(")[2]
    assert torch.equal(layer(x), wanted) and torch.equal(layer(x), wanted)
    layer.train()
    once, again = layer(x), layer(x)
    assert not torch.allclose(once, again)
    torch.testing.assert_close(once, once[:1].expand_as(once))  # one draw for the whole batch


@pytest.mark.parametrize("kind", LAYERS)
def test_the_noise_has_the_units_sigma(kind: str) -> None:
    torch.manual_seed(0)
    layer = make_bayesian(LAYERS[kind][0](), 0.125, pretrained=False)
    with torch.no_grad():
        layer.rho.copy_(torch.linspace(-4, 2, 40))
        draws = torch.stack([layer.sample() for _ in range(400)]) - layer.weight
    sigma = torch.log1p(torch.exp(layer.rho.detach()))
    torch.testing.assert_close(draws.transpose(0, 1).flatten(1).std(dim=1), sigma, rtol=0.05, atol=0)
    each = draws.std(dim=0) / sigma.reshape(-1, *[1] * (layer.weight.dim() - 1))
    assert each.min() > 0.8 and each.max() < 1.2  # every weight has noise of its own
    assert draws[:, ::3].flatten(1)[:, :200].T.corrcoef().fill_diagonal_(0).abs().max() < 0.4


@pytest.mark.parametrize("kind", LAYERS)
def test_initial_variances(kind: str) -> None:
    torch.manual_seed(0)
    layer = make_bayesian(LAYERS[kind][0](), 0.125, pretrained=False)
    total = 2 / (30 if kind == "linear" else 40 * prod(layer.weight.shape[2:]))
    torch.testing.assert_close(layer.sigma(), torch.full((40,), sqrt(0.125 * total)))
    torch.testing.assert_close(layer.initial_sigma, torch.tensor(sqrt(0.125 * total)))
    assert float(layer.weight.detach().var()) == pytest.approx(0.875 * total, rel=0.1)
    bound = sqrt(3 * 0.875 * total)
    assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert not layer.bias.any()


def test_a_pretrained_layer_keeps_its_values_and_scales_the_noise_by_them() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(30, 40)
    nn.init.normal_(plain.weight, std=0.02)
    weight, bias = plain.weight.detach().clone(), plain.bias.detach().clone()
    layer = make_bayesian(plain, 0.125, pretrained=True)
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)
    spread = ((weight - weight.mean()) ** 2).mean()
    torch.testing.assert_close(layer.sigma(), (0.125 * spread).sqrt().expand(40))
    torch.testing.assert_close(layer.initial_sigma, (0.125 * spread).sqrt())


def test_what_cannot_be_made_bayesian_is_refused() -> None:
    with pytest.raises(TypeError, match="GRU"):
        make_bayesian(nn.GRU(2, 2), 0.1, pretrained=False)
    with pytest.raises(TypeError, match="bias"):
        make_bayesian(nn.Linear(2, 2, bias=False), 0.1, pretrained=False)
    constant = nn.Linear(2, 2)
    nn.init.zeros_(constant.weight)
    with pytest.raises(ValueError, match="constant"):
        make_bayesian(constant, 0.1, pretrained=True)
