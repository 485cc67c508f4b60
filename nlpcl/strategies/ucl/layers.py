"""Layers whose weights are drawn anew in every forward pass (Ahn et al., NeurIPS 2019, https://arxiv.org/abs/1905.11614).

w = mu + sigma_i eps for the weights that lead to unit i, eps ~ N(0, 1) for each weight; one sigma for each unit.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.errors import UsageError


def initial_variance(weight: Tensor) -> float:
    """Return 2 / fan: fan_in for a linear weight (out, in), out * kernel area for a convolution's (out, in, ...)."""
    return 2 / (weight.shape[1] if weight.dim() == 2 else weight.numel() / weight.shape[1])


class Bayesian(nn.Module):
    """The base of the Bayesian layers; `weight` is mu, `bias` is deterministic.

    `rho` (out,) trains, sigma = softplus(rho); `initial_sigma` () is s0, the sigma of all units at the start.
    """

    weight: Tensor
    bias: Any  # a Tensor, which the layers' classes declare differently
    rho: nn.Parameter
    initial_sigma: Tensor

    def sigma(self) -> Tensor:
        """Return the standard deviation of the weights of each unit, (out,), above 0."""
        return F.softplus(self.rho)

    def sample(self) -> Tensor:
        """Draw a weight, mu + sigma eps, in training mode; return mu in evaluation mode."""
        if not self.training:
            return self.weight
        sigma = self.sigma().reshape(-1, *[1] * (self.weight.dim() - 1))
        return self.weight + sigma * torch.randn_like(self.weight)

    @torch.no_grad()
    def begin(self, ratio: float, pretrained: bool) -> None:
        """Draw mu anew unless `pretrained`, and set sigma to s0."""
        if pretrained:
            total = float(self.weight.var(unbiased=False))
            if total == 0:
                raise ValueError("a constant weight has no variance to set the noise by")
        else:
            total = initial_variance(self.weight)
            bound = math.sqrt(3 * (1 - ratio) * total)  # a uniform on [-b, b] has variance b^2 / 3
            self.weight.uniform_(-bound, bound)
            self.bias.zero_()
        initial_sigma = math.sqrt(ratio * total)
        self.rho = nn.Parameter(self.bias.new_full((len(self.weight),), math.log(math.expm1(initial_sigma))))
        self.register_buffer("initial_sigma", self.weight.new_tensor(initial_sigma))


class BayesianLinear(Bayesian, nn.Linear):
    """A Bayesian `nn.Linear`; made by `make_bayesian`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.sample(), self.bias)


class BayesianConvolution(Bayesian):
    """What the Bayesian convolutions share."""

    _conv_forward: Any

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(input, self.sample(), self.bias)
        return output


class BayesianConv1d(BayesianConvolution, nn.Conv1d):
    """A Bayesian `nn.Conv1d`; made by `make_bayesian`."""


class BayesianConv2d(BayesianConvolution, nn.Conv2d):
    """A Bayesian `nn.Conv2d`; made by `make_bayesian`."""


KINDS: dict[type[nn.Module], type[Bayesian]] = {
    nn.Linear: BayesianLinear,
    nn.Conv1d: BayesianConv1d,
    nn.Conv2d: BayesianConv2d,
}


def make_bayesian(layer: nn.Module, ratio: float, pretrained: bool) -> Bayesian:
    """Make a layer Bayesian, in place: it becomes a subclass of its class, with one parameter more.

    As in the code of Ahn et al. 2019 the total variance 2 / fan of a weight is shared out: `ratio` of it to the noise,
    s0^2 = ratio * 2 / fan, the rest to mu, which is drawn uniformly; the bias starts at 0.

    Drawn like that, a layer of a pretrained encoder, or one that stands among its layers, would wreck what the encoder
    computes: 2 / fan is meant for stacks of ReLU layers that start at random, and is many times the variance of such a
    layer's weights. So with `pretrained` mu and the bias keep their values, and the weight's own variance stands for
    2 / fan, which makes the noise small next to the weights in the same proportion.

    :param layer: an `nn.Linear`, `nn.Conv1d` or `nn.Conv2d` with a bias.
    :param ratio: share of the noise in the variance, in (0, 1).
    :param pretrained: keep the layer's weight and bias.
    :raises UsageError: `ratio` is outside (0, 1).
    :raises TypeError: another kind of layer, or one without a bias.
    :raises ValueError: `pretrained`, and the weight is constant, so that no variance can be read off it.
    """
    if not 0 < ratio < 1:
        raise UsageError(f"ratio must lie between 0 and 1, not {ratio}.")
    for plain, kind in KINDS.items():
        if isinstance(layer, plain) and layer.bias is not None:
            bayesian: Any = layer
            bayesian.__class__ = kind
            bayesian.begin(ratio, pretrained)
            return cast(Bayesian, layer)
    raise TypeError(f"only a Linear, Conv1d or Conv2d with a bias can be made Bayesian, not {layer}")
