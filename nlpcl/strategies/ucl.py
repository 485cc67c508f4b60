"""UCL: uncertainty-regularised continual learning (Ahn et al., NeurIPS 2019, https://arxiv.org/abs/1905.11614).

Every weight is drawn from N(mu, sigma^2) in training and is mu at test, with one sigma for each unit. A unit that ends
a task with a small sigma is needed there, so what leads to it and away from it is held; the others stay free.

    L = CE + (1/N) { a/2 sum_l ( ||S_l (mu_l - mu_l')||^2 + ||S_b,l (b_l - b_l')||^2 )
                     + 1[t > 0] sum_l s0_l^2 ( ||(mu_l'/sigma_l')^2 (mu_l - mu_l')||_1 + the same for b_l )
                     + beta/2 sum_l sum_i ( r_l,i - log r_l,i + sigma_l,i^2 - log sigma_l,i^2 ) }
    S_l,ij = max( s0_l / sigma_l,i',  s0_{l-1} / sigma_{l-1},j' ),  S_b,l,i = s0_l / sigma_l,i',  r = (sigma / sigma')^2

A prime marks the value at the start of the task, s0 the sigma a layer began with, t = 0, 1, ... the task; a is alpha in
the first task and 1 afterwards; N is the number of training examples of the task, CE the mean over a mini-batch. The
last sum has one entry for each unit i. Unit j of layer l - 1 is the one that makes the input of column j (for a
convolution an input channel); a column whose input no Bayesian layer makes counts 0.

Where it differs from the original toolkit: there the regulariser looked at the network's direct children alone and so
found no layer in any text model, and the mean CE was divided by the batch size once more. Here every site of the
backbone is Bayesian and regularised, whether it is a convolution in a list or stands deep inside an encoder; rho has a
learning rate of its own in any optimizer, no weight decay and no clipping; layers of pretrained encoders keep their
weights (see `make_bayesian`). The regulariser is divided by N, as in the variational bound it comes from; Ahn et al.'s
code divides it by the batch size. `parity=True` restores the toolkit's CE / B + {...} / B with B the batch size, not
the inert regulariser.

What nothing regularises: the backbone's other shared parameters (LayerNorms and, in full fine-tuning, embeddings and
the attention's query, key and value maps), which freeze after the first task, unless `parity`; the heads, which train
freely. In task-incremental learning each task has its own head; in domain-incremental learning all share one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models.base import ContinualModel, Site, by_entry, sites_of, unprotected
from nlpcl.models.sizes import tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Between, Rate, Weight
from nlpcl.registry import register_strategy
from nlpcl.training.plugin import Plugin, Strategy
from nlpcl.training.strategy import ContinualStrategy, StrategyOptions, minibatch_rows


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
    :raises TypeError: another kind of layer, or one without a bias.
    :raises ValueError: `pretrained`, and the weight is constant, so that no variance can be read off it.
    """
    for plain, kind in KINDS.items():
        if isinstance(layer, plain) and layer.bias is not None:
            bayesian: Any = layer
            bayesian.__class__ = kind
            bayesian.begin(ratio, pretrained)
            return cast(Bayesian, layer)
    raise TypeError(f"only a Linear, Conv1d or Conv2d with a bias can be made Bayesian, not {layer}")


@dataclass(frozen=True)
class Start:
    """The values of a site when the task started, and the factors that hold it there.

    :param weight: mu'; the site's weight.
    :param bias: b', (out,).
    :param sigma: sigma', (out,).
    :param strengths: S_l and S_b,l, broadcastable to weight and bias.
    :param importances: (s0 mu'/sigma')^2 and (s0 b'/sigma')^2, shaped as weight and bias.
    """

    state = ("weight", "bias", "sigma", "strengths", "importances")

    weight: Tensor
    bias: Tensor
    sigma: Tensor
    strengths: tuple[Tensor, Tensor]
    importances: tuple[Tensor, Tensor]


def strengths(sites: Sequence[Site]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return S_l, (out, columns, 1, ...), and S_b,l, (out,), of each site by name, from its present sigma.

    S of the module's docstring (Ahn et al. 2019, section 3). A column that comes from no site counts 0.

    :param sites: their modules are Bayesian, and whatever their `inputs` name is among them.
    """
    layers = {site.name: cast(Bayesian, site.module) for site in sites}
    certain = {name: layer.initial_sigma / layer.sigma() for name, layer in layers.items()}
    return {site.name: (by_entry(site, certain, 0.0, torch.maximum), certain[site.name]) for site in sites}


@torch.no_grad()
def start_of_task(sites: Sequence[Site]) -> dict[str, Start]:
    """Return the present values of each site by name, with the factors that follow from them."""
    held = strengths(sites)
    found = {}
    for site in sites:
        layer = cast(Bayesian, site.module)
        sigma = layer.sigma()
        relative = sigma / layer.initial_sigma
        importances = (
            (layer.weight / relative.reshape(-1, *[1] * (layer.weight.dim() - 1))).square(),
            (layer.bias / relative).square(),
        )
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        found[site.name] = Start(weight, bias, sigma, held[site.name], importances)
    return found


def ucl_penalty(
    sites: Sequence[Site], starts: Mapping[str, Start], *, alpha: float, beta: float, first: bool
) -> Tensor:
    """Return the braces in the module's docstring (Ahn et al. 2019, section 3), a scalar.

    :param sites: their modules are Bayesian.
    :param starts: each site at the start of the task.
    :param alpha: factor a of the first task; later ones have 1.
    :param beta: factor of the sigmas' part.
    :param first: whether this is the first task, which is not held in the L1 norm.
    """
    penalties = []
    for site in sites:
        layer, start = cast(Bayesian, site.module), starts[site.name]
        moved = (layer.weight - start.weight, layer.bias - start.bias)
        for change, strength, importance in zip(moved, start.strengths, start.importances, strict=True):
            penalties.append((alpha if first else 1.0) / 2 * (strength * change).square().sum())
            if not first:
                penalties.append((importance * change).abs().sum())
        sigma = layer.sigma()
        ratio = sigma / start.sigma
        # log x^2 as 2 log x: x^2 would be 0 in float32 long before x is.
        spread = ratio.square() - 2 * ratio.log() + sigma.square() - 2 * sigma.log()
        penalties.append(beta / 2 * spread.sum())
    return torch.stack(penalties).sum()


class UCLOptions(StrategyOptions):
    """The options of UCL."""

    ratio: Between = option(
        0.125, "share of the noise in a weight's initial variance, in (0, 1); 0.125 in the original toolkit"
    )
    alpha: Weight = option(
        5.0, "factor of the quadratic part of the regulariser in the first task; 5 in the original toolkit"
    )
    beta: Weight = option(
        0.002, "factor of the part that keeps the noise from vanishing; 0.002 in the original toolkit"
    )
    rho_learning_rate: Rate = option(0.01, "learning rate of rho, the noise's parameter; 0.01 in the original toolkit")
    parity: bool = option(
        False,
        "restore what the original toolkit did: loss and regulariser over the batch size, LayerNorms that train in "
        "every task, and what it does for every strategy",
    )


class UCLPlugin(Plugin[UCLOptions]):
    """Makes every site of a `ContinualModel` Bayesian and regularises it.

    Under a strategy of Avalanche's own rho has the learning rate and weight decay of the others.

    :param model: the layers at its backbone's sites become Bayesian.
    :raises TypeError: a site's layer is no `nn.Linear`, `nn.Conv1d` or `nn.Conv2d`.
    """

    task_state = ("starts",)

    def __init__(self, model: ContinualModel, options: UCLOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.backbone = model.backbone
        self.sites = sites_of(model, "ucl")
        for site in self.sites:
            make_bayesian(site.module, self.options.ratio, self.backbone.pretrained)
        self.starts: dict[str, Start] = {}

    def parameter_group(self, strategy: Strategy) -> dict[str, Any]:
        """Return the optimizer's group of rho: a learning rate of its own, no weight decay."""
        rhos = [cast(Bayesian, site.module).rho for site in self.sites]
        return {"params": rhos, "lr": self.options.rho_learning_rate, "weight_decay": 0.0}

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        if strategy.clock.train_exp_counter and not self.options.parity:
            for p in unprotected(self.backbone):
                p.requires_grad_(False)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.starts = start_of_task(self.sites)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        alpha, beta, first = self.options.alpha, self.options.beta, strategy.clock.train_exp_counter == 0
        penalty = ucl_penalty(self.sites, self.starts, alpha=alpha, beta=beta, first=first)
        if self.options.parity:
            strategy.loss = (strategy.loss + penalty) / minibatch_rows(strategy)
        else:
            strategy.loss = strategy.loss + penalty / len(strategy.experience.dataset)

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the values at the start of the task, not of the factors that follow from them."""
        starts = self.starts.values()
        return {"previous_weights": tensor_bytes(t for s in starts for t in (s.weight, s.bias, s.sigma))}


@register_strategy(
    "ucl",
    title="uncertainty-regularised continual learning",
    paper="Ahn, Cha, Lee, Moon: Uncertainty-based Continual Learning with Adaptive Regularization, NeurIPS 2019",
    url="https://arxiv.org/abs/1905.11614",
    ddp=True,
)
class UCL(ContinualStrategy):
    """Uncertainty-regularised continual learning."""

    plugin_type = UCLPlugin
