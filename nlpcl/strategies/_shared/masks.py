"""The mask mechanism that HAT, CTR and their kin share: gates, annealing, sparsity loss, blocked weights, inference."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nlpcl.models.base import (
    Backbone,
    ContinualModel,
    Site,
    row_factor,
    sites_of,
    unprotected,
    weight_factor,
)
from nlpcl.models.gates import Gates, sparsity
from nlpcl.options import option
from nlpcl.ranges import Mean, Rate, Scale, Spread, Weight
from nlpcl.registry import PresetTable
from nlpcl.strategies._shared.plugin_strategy import ShapingStrategy
from nlpcl.training.forward import logits_of
from nlpcl.training.plugin import Plugin
from nlpcl.training.protocols import Strategy
from nlpcl.training.strategy import StrategyOptions

CLAMP = 6.0
"""Embeddings stay within [-6, 6], where sigma' is not yet lost (HAT's reference code)."""
GATE_LEARNING_RATE = 0.05
"""Default learning rate of the embeddings."""
GATE_INIT = 1.0
"""Standard deviation of their initial values in HAT's reference code, and in the original toolkit but for adapters."""
ADAPTER_GATE_INIT = 0.02
"""In the original toolkit's adapters, whose embeddings are drawn as an encoder's weights are."""


def annealed_scale(batch: int, batches: int, smax: float) -> float:
    """Return s = 1/smax + (smax - 1/smax) (b - 1) / (B - 1) for b = 1..B; smax if B = 1 (HAT, eq. 3).

    :param batch: b, from 1.
    :param batches: B, batches in an epoch.
    """
    if batches == 1:
        return smax
    return 1 / smax + (smax - 1 / smax) * (batch - 1) / (batches - 1)


class BlockedWeights:
    """Keeps entries of weights from moving: their gradient is multiplied by a factor in [0, 1].

    The factor is a hook on the gradient, which is linear, so loss scaling and accumulation do not
    disturb it. Where it is 0 the entry is put back after every step, so weight decay and the momentum of
    a used optimizer cannot move it either.
    """

    task_state = ("_factors", "_kept")

    def __init__(self) -> None:
        self._factors: dict[nn.Parameter, Tensor] = {}
        self._kept: dict[nn.Parameter, Tensor] = {}
        self._hooked: set[nn.Parameter] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Hooks are not copied with a parameter, so a copy has to register its own.
        return {**self.__dict__, "_hooked": set()}

    def set(self, factors: Mapping[nn.Parameter, Tensor]) -> None:
        """Block by `factors`, each broadcastable to its parameter, until the next call."""
        self._factors = {p: self._smallest(p, f) for p, f in factors.items() if bool((f < 1).any())}
        self._kept = {p: p.detach().clone() for p in self._factors}
        for p in factors:
            if p not in self._hooked:
                p.register_hook(partial(self._block, p))
                self._hooked.add(p)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the blocked entries back."""
        for p, kept in self._kept.items():
            p.copy_(torch.where(self._factors[p].bool(), p, kept))

    def _block(self, p: nn.Parameter, grad: Tensor) -> Tensor:
        factor = self._factors.get(p)
        return grad if factor is None else grad * factor

    @staticmethod
    def _smallest(p: nn.Parameter, factor: Tensor) -> Tensor:
        """Return a factor of zeros and ones as booleans, which take a quarter of its bytes, any other as it is."""
        nonzero = factor != 0
        return nonzero if torch.equal(nonzero.to(factor.dtype), factor) else factor.to(p.dtype)


def site_factors(sites: list[Site], used: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """Return 1 - min(A_l, A_{l-1}) for each site's weight and 1 - A_l for its bias."""
    factors: dict[nn.Parameter, Tensor] = {}
    for site in sites:
        weight, bias = site.module.weight, site.module.bias
        assert isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter)
        factors[weight] = weight_factor(site, used)
        factors[bias] = row_factor(site, used)
    return factors


class GateOptions(StrategyOptions):
    """The options of a method whose gates are hard attention to the task."""

    smax: Scale = option(400.0, "largest scale s of the gates; 400 in HAT's paper and the original toolkit")
    gate_learning_rate: Rate | None = option(
        GATE_LEARNING_RATE,
        "learning rate of the gates' embeddings, or null for the optimizer's; 0.05 is chosen here, see "
        "docs/presets.md, and with `parity` it is the optimizer's in place of 0.05",
    )
    gate_mean: Mean = option(0.0, "mean of the embeddings' initial values; 0 in HAT's reference code")
    gate_init: Spread = option(
        GATE_INIT,
        "standard deviation of the embeddings' initial values; 1 in HAT's reference code, and with `parity` 0.02 in "
        "place of 1 in an encoder",
    )
    parity: bool = option(
        False,
        "restore what the original toolkit did: soft masks, gates that start and train like weights, LayerNorms that "
        "train in every task, and what it does for every strategy",
    )


class InferenceOptions(GateOptions):
    """The options of a method that chooses a mask at test."""

    inference: Literal["last", "entropy"] = option(
        "last",
        "which mask serves in domain-incremental learning: that of the last trained task for every sample (`last`), or "
        "for each sample the one whose output has the least entropy (`entropy`)",
    )


class GatePlugin(Plugin):
    """Trains gates: their group of the optimizer, the annealing of s, and the weights that they block.

    :ivar undecided: the share of undecided gates of each task.
    """

    options_type = GateOptions
    options: GateOptions
    state = ("undecided",)
    task_state = ("blocked",)
    gates: Gates
    task_incremental: bool

    def __init__(self, options: GateOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.blocked = BlockedWeights()
        self.undecided: list[float] = []

    def parameter_group(self, strategy: Strategy) -> dict[str, Any]:
        """Return the gates' group of the optimizer: a rate of their own and, but for `parity`, no weight decay."""
        rate, parity = self.options.gate_learning_rate, self.options.parity
        group: dict[str, Any] = {"params": [p for p in self.gates.parameters() if p.requires_grad]}
        if not parity:
            group["weight_decay"] = 0.0
        if rate is not None and not (parity and rate == GATE_LEARNING_RATE):
            group["lr"] = rate
        return group

    def before_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        batches = len(strategy.dataloader)
        done = strategy.clock.train_epoch_iterations
        # The original code counts from 0 and divides by B, so it never reaches smax.
        steps = batches + 1 if self.options.parity else batches
        self.gates.scale = annealed_scale(done + 1, steps, self.options.smax)

    def before_update(self, strategy: Strategy, **kwargs: Any) -> None:
        # The original code has a tensor for each site and clips tensors one by one.
        clip_norm = getattr(strategy, "clip_norm", None)
        if not self.options.parity or self.gates.current is None or clip_norm is None:
            return
        gradient = self.gates.embeddings[self.gates.current].grad
        assert gradient is not None
        for part in gradient.split(list(self.gates.widths.values())):
            part.mul_((clip_norm / (part.norm() + 1e-6)).clamp(max=1.0))  # as torch's clip_grad_norm_

    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        self.blocked.restore()
        if self.gates.current is not None:
            with torch.no_grad():
                self.gates.embeddings[self.gates.current].clamp_(-CLAMP, CLAMP)


class MaskOptions(GateOptions):
    """The options of a method with HAT's masks."""

    lamb: Weight = option(0.75, "weight lambda of the sparsity loss; 0.75 in HAT's paper and the original toolkit")


class MaskPlugin(GatePlugin):
    """Hard attention to the task on every site of a `ContinualModel`.

    In task-incremental learning a sample's task label chooses its mask; in domain-incremental learning,
    where labels are all 0, the last trained mask serves every sample.

    :param model: its backbone gets the gates, as `backbone.gates`.
    """

    options_type = MaskOptions
    options: MaskOptions

    def __init__(self, model: ContinualModel, options: MaskOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        smax, mean, spread = self.options.smax, self.options.gate_mean, self.options.gate_init
        parity = self.options.parity
        self.backbone: Backbone = model.backbone
        self.sites = sites_of(model, "hard attention to the task")
        if parity and spread == GATE_INIT and self.backbone.pretrained:
            spread = ADAPTER_GATE_INIT
        self.gates = Gates(self.sites, self.backbone.context, model.n_tasks, smax, mean, spread, soft=parity)
        self.backbone.gates = self.gates
        self.task_incremental = model.task_incremental

    def factors(self, task: int) -> dict[nn.Parameter, Tensor]:
        """Return the factors of the weights that are blocked while `task` trains; methods add theirs."""
        return site_factors(self.sites, self.gates.by_site(self.gates.used))

    def shared(self) -> list[nn.Parameter]:
        """Return the parameters that no mask protects and that train in every task nevertheless; by default none."""
        return []

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        task = strategy.experience.current_experience
        self.gates.begin(task)
        if not self.task_incremental:
            self.gates.override = task
        if self.gates.trained and not self.options.parity:
            shared = {id(p) for p in self.shared()}
            for p in unprotected(self.backbone):
                p.requires_grad_(id(p) in shared)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.blocked.set(self.factors(self.gates.current or 0))

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.loss = strategy.loss + self.options.lamb * sparsity(self.gates.training_gates(), self.gates.used)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.undecided.append(self.gates.end())


def least_entropy(logits: Tensor) -> Tensor:
    """Choose for each sample, of logits (K, B, C) under K masks, those with the least entropy, (B, C)."""
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    best = entropy.argmin(dim=0)
    return logits[best, torch.arange(logits.shape[1], device=logits.device)]


ORIGINAL_GATES: PresetTable = (
    ({"options.parity": "True"}, {"options": {"gate_mean": 0.0, "gate_learning_rate": None}}),
    *(
        ({"options.parity": "True", "backbone": name}, {"options": {"gate_init": ADAPTER_GATE_INIT}})
        for name in ("bert", "bert_adapter")
    ),
)
"""What `parity` means for gates, so that a spec says what is run."""
MASK_PRESETS: PresetTable = (
    # Pretrained units start open: half of them shut at random would be another encoder.
    ({"backbone": "bert"}, {"options": {"gate_mean": 2.0}}),
    # At the adapters' 0.05 the sparsity loss closes what the next task needs before it has learnt: docs/presets.md.
    ({"backbone": "cnn"}, {"options": {"gate_learning_rate": 0.01}}),
    ({"backbone": "mlp"}, {"options": {"gate_learning_rate": 0.01}}),
    # The original toolkit's net for HAT and CAT; its weights are fresh, too.
    ({"backbone": "bert_frozen"}, {"options": {"gate_learning_rate": 0.01}, "backbone_options": {"layers": 2}}),
    ({"backbone": "w2v*"}, {"options": {"gate_learning_rate": 0.01}, "backbone_options": {"layers": 2}}),
    *ORIGINAL_GATES,
)
"""Settings of the gates by backbone, for HAT and CAT."""


class GateStrategy(ShapingStrategy):
    """A strategy whose `masks` are gates."""

    masks: GatePlugin

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> GatePlugin:
        self.masks = super().make_plugin(model, optimizer)
        return self.masks


class MaskInferenceOptions(MaskOptions, InferenceOptions):
    """The options of a method with HAT's masks that chooses one at test."""


class MaskInference(GateStrategy):
    """A mask strategy for domain-incremental learning, too, where no task label chooses the mask at test."""

    plugin_type: ClassVar[type[GatePlugin]] = MaskPlugin
    options_type = MaskInferenceOptions
    options: InferenceOptions

    def forward(self) -> Tensor:
        """Return the logits of the mini-batch; at test under the mask that `inference` chooses."""
        masks = self.masks
        if self.is_training or masks.task_incremental or self.options.inference == "last" or not masks.gates.trained:
            return super().forward()
        return least_entropy(self.logits_by_mask())

    def logits_by_mask(self) -> Tensor:
        """Return the logits (K, B, C) of the mini-batch under the masks of the K trained tasks."""
        gates, logits = self.masks.gates, []
        last = gates.override
        for task in gates.trained:
            gates.override = task
            logits.append(logits_of(self, self.mb_x, self.tasks))
        gates.override = last
        return torch.stack(logits)
