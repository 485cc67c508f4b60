"""The mask mechanism that HAT, CTR and their kin share: gates, annealing, sparsity loss, blocked weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from nlpcl.models.base import Backbone, ContinualModel, Site, row_factor, weight_factor
from nlpcl.models.gates import Gates, sparsity

CLAMP = 6.0
"""Embeddings stay within [-6, 6], where sigma' is not yet lost (HAT's reference code)."""


def annealed_scale(batch: int, batches: int, smax: float) -> float:
    """s = 1/smax + (smax - 1/smax) (b - 1) / (B - 1) for b = 1..B; smax if B = 1 (HAT, eq. 3).

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

    def __init__(self) -> None:
        self._factors: dict[nn.Parameter, Tensor] = {}
        self._kept: dict[nn.Parameter, Tensor] = {}
        self._hooked: set[nn.Parameter] = set()

    def set(self, factors: Mapping[nn.Parameter, Tensor]) -> None:
        """Block by `factors`, each broadcastable to its parameter, until the next call."""
        self._factors = {p: f for p, f in factors.items() if bool((f < 1).any())}
        self._kept = {p: p.detach().clone() for p in self._factors}
        for p in factors:
            if p not in self._hooked:
                p.register_hook(partial(self._block, p))
                self._hooked.add(p)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the blocked entries back."""
        for p, factor in self._factors.items():
            p.copy_(torch.where(factor > 0, p, self._kept[p]))

    def _block(self, p: nn.Parameter, grad: Tensor) -> Tensor:
        factor = self._factors.get(p)
        return grad if factor is None else grad * factor.to(grad.dtype)


def site_factors(sites: list[Site], used: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """1 - min(A_l, A_{l-1}) for each site's weight and 1 - A_l for its bias."""
    factors: dict[nn.Parameter, Tensor] = {}
    for site in sites:
        weight, bias = site.module.weight, site.module.bias
        assert isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter)
        factors[weight] = weight_factor(site, used)
        factors[bias] = row_factor(site, used)
    return factors


class MaskPlugin(SupervisedPlugin[Any], supports_distributed=False):  # type: ignore[call-arg]
    """Hard attention to the task on every site of a `ContinualModel`.

    In task-incremental learning a sample's task label chooses its mask; in domain-incremental learning,
    where labels are all 0, the last trained mask serves every sample.

    :param model: its backbone gets the gates, as `backbone.gates`.
    :param lamb: lambda of the sparsity loss.
    :param smax: largest s of the annealing.
    :param gate_learning_rate: learning rate of the embeddings; None: the optimizer's.
    :param init_std: standard deviation of the embeddings' initial values.
    :param parity: the original code's soft masks and trainable LayerNorms.
    """

    def __init__(
        self,
        model: ContinualModel,
        *,
        lamb: float,
        smax: float,
        gate_learning_rate: float | None,
        init_std: float,
        parity: bool,
    ) -> None:
        super().__init__()
        self.backbone: Backbone = model.backbone
        self.sites = self.backbone.sites()
        self.gates = Gates(self.sites, self.backbone.context, model.n_tasks, smax, init_std, soft=parity)
        self.backbone.gates = self.gates
        self.task_incremental = model.task_incremental
        self.lamb = lamb
        self.smax = smax
        self.gate_learning_rate = gate_learning_rate
        self.parity = parity
        self.blocked = BlockedWeights()
        self.undecided: list[float] = []

    def factors(self, task: int) -> dict[nn.Parameter, Tensor]:
        """What is blocked while `task` trains; methods add their own weights to it."""
        return site_factors(self.sites, self.gates.used_by_site())

    def parameter_group(self, strategy: Any) -> dict[str, Any]:
        """The gates' own group of the optimizer: own learning rate, no weight decay."""
        group: dict[str, Any] = {"params": [p for p in self.gates.parameters() if p.requires_grad], "weight_decay": 0.0}
        if self.gate_learning_rate is not None:
            group["lr"] = self.gate_learning_rate
        return group

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        task = strategy.experience.current_experience
        self.gates.begin(task)
        if not self.task_incremental:
            self.gates.override = task
        if bool(self.gates.trained.any()) and not self.parity:
            for norm in self.backbone.norms():
                norm.requires_grad_(False)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.blocked.set(self.factors(self.gates.current or 0))

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        batches = len(strategy.dataloader)
        done = strategy.clock.train_epoch_iterations
        # The original code counts from 0 and divides by B, so it never reaches smax.
        self.gates.scale = annealed_scale(done + 1, batches + 1 if self.parity else batches, self.smax)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss + self.lamb * sparsity(self.gates.training_gates(), self.gates.used)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.blocked.restore()
        assert self.gates.current is not None
        with torch.no_grad():
            self.gates.embeddings[self.gates.current].clamp_(-CLAMP, CLAMP)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.undecided.append(self.gates.end())
