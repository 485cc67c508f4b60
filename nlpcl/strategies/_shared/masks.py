"""The mask mechanism that HAT, CTR and their kin share: gates, annealing, sparsity loss, blocked weights, inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from nlpcl.models.base import Backbone, ContinualModel, Site, row_factor, unprotected, weight_factor
from nlpcl.models.gates import Gates, sparsity
from nlpcl.ranges import Mean, Rate, Scale, Spread, Weight
from nlpcl.training.strategy import ContinualStrategy, continual_model, sites_of

CLAMP = 6.0
"""Embeddings stay within [-6, 6], where sigma' is not yet lost (HAT's reference code)."""
GATE_LEARNING_RATE = 0.05
"""Of the embeddings, unless something else is said."""
GATE_INIT = 1.0
"""Standard deviation of their initial values in HAT's reference code, and in the original toolkit but for adapters."""
ADAPTER_GATE_INIT = 0.02
"""In the original toolkit's adapters, whose embeddings are drawn as an encoder's weights are."""


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

    task_state = ("_factors", "_kept")

    def __init__(self) -> None:
        self._factors: dict[nn.Parameter, Tensor] = {}
        self._kept: dict[nn.Parameter, Tensor] = {}
        self._hooked: set[nn.Parameter] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Hooks are not copied with a parameter, so a copy has to put its own.
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
        """A factor of zeros and ones as booleans, which are a quarter of it."""
        nonzero = factor != 0
        return nonzero if torch.equal(nonzero.to(factor.dtype), factor) else factor.to(p.dtype)


def site_factors(sites: list[Site], used: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """1 - min(A_l, A_{l-1}) for each site's weight and 1 - A_l for its bias."""
    factors: dict[nn.Parameter, Tensor] = {}
    for site in sites:
        weight, bias = site.module.weight, site.module.bias
        assert isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter)
        factors[weight] = weight_factor(site, used)
        factors[bias] = row_factor(site, used)
    return factors


def gate_group(gates: Gates, learning_rate: float | None, parity: bool) -> dict[str, Any]:
    """Return a group of the optimizer for the embeddings that train.

    :param learning_rate: None means the optimizer's.
    :param parity: they decay like weights, as in the original code.
    """
    group: dict[str, Any] = {"params": [p for p in gates.parameters() if p.requires_grad]}
    group |= {} if parity else {"weight_decay": 0.0}
    return group if learning_rate is None else group | {"lr": learning_rate}


def clip_gates(gates: Gates, strategy: Any) -> None:
    """Clip the gradient of the embeddings that train as the original code does, each site's by itself.

    There each site has a tensor of its own, and tensors are clipped one by one.
    """
    clip_norm = getattr(strategy, "clip_norm", None)
    if gates.current is None or clip_norm is None:
        return
    gradient = gates.embeddings[gates.current].grad
    assert gradient is not None
    for part in gradient.split(list(gates.widths.values())):
        part.mul_((clip_norm / (part.norm() + 1e-6)).clamp(max=1.0))  # as torch's clip_grad_norm_


class MaskPlugin(SupervisedPlugin[Any], supports_distributed=True):  # type: ignore[call-arg]
    """Hard attention to the task on every site of a `ContinualModel`.

    In task-incremental learning a sample's task label chooses its mask; in domain-incremental learning,
    where labels are all 0, the last trained mask serves every sample.

    :param model: its backbone gets the gates, as `backbone.gates`.
    :param lamb: lambda of the sparsity loss.
    :param smax: largest s of the annealing.
    :param gate_learning_rate: learning rate of the embeddings; None means the optimizer's.
    :param init_mean: mean of the embeddings' initial values.
    :param init_std: their standard deviation.
    :param parity: the original code's soft masks, and what no mask protects trains in every task; gates train like
        weights, at the optimizer's rate in place of 0.05, clipped and with weight decay, and those in an encoder start
        with a standard deviation of 0.02 in place of 1.
    """

    state = ("undecided",)
    task_state = ("blocked",)

    def __init__(
        self,
        model: ContinualModel,
        *,
        lamb: float = 0.75,
        smax: float = 400.0,
        gate_learning_rate: float | None = None,
        init_mean: float = 0.0,
        init_std: float = GATE_INIT,
        parity: bool = False,
    ) -> None:
        super().__init__()
        self.backbone: Backbone = model.backbone
        self.sites = sites_of(model, "hard attention to the task")
        if parity and gate_learning_rate == GATE_LEARNING_RATE:
            gate_learning_rate = None
        if parity and init_std == GATE_INIT and self.backbone.pretrained:
            init_std = ADAPTER_GATE_INIT
        self.gates = Gates(self.sites, self.backbone.context, model.n_tasks, smax, init_mean, init_std, soft=parity)
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

    def shared(self) -> list[nn.Parameter]:
        """What no mask protects and nevertheless trains in every task; nothing, unless a method says so."""
        return []

    def parameter_group(self, strategy: Any) -> dict[str, Any]:
        """The gates' own group of the optimizer: own learning rate and, but for `parity`, no weight decay."""
        return gate_group(self.gates, self.gate_learning_rate, self.parity)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        task = strategy.experience.current_experience
        self.gates.begin(task)
        if not self.task_incremental:
            self.gates.override = task
        if self.gates.trained and not self.parity:
            shared = {id(p) for p in self.shared()}
            for p in unprotected(self.backbone):
                p.requires_grad_(id(p) in shared)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.blocked.set(self.factors(self.gates.current or 0))

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        batches = len(strategy.dataloader)
        done = strategy.clock.train_epoch_iterations
        # The original code counts from 0 and divides by B, so it never reaches smax.
        self.gates.scale = annealed_scale(done + 1, batches + 1 if self.parity else batches, self.smax)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss + self.lamb * sparsity(self.gates.training_gates(), self.gates.used)

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.parity:
            clip_gates(self.gates, strategy)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.blocked.restore()
        assert self.gates.current is not None
        with torch.no_grad():
            self.gates.embeddings[self.gates.current].clamp_(-CLAMP, CLAMP)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.undecided.append(self.gates.end())


def least_entropy(logits: Tensor) -> Tensor:
    """For logits (K, B, C) of K tasks, those of the task whose softmax has the least entropy, (B, C)."""
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    best = entropy.argmin(dim=0)
    return logits[best, torch.arange(logits.shape[1], device=logits.device)]


Presets = tuple[tuple[dict[str, Any], dict[str, Any]], ...]
ORIGINAL_GATES: Presets = (
    ({"options.parity": "True"}, {"options": {"gate_mean": 0.0, "gate_learning_rate": None}}),
    *(
        ({"options.parity": "True", "backbone": name}, {"options": {"gate_init": ADAPTER_GATE_INIT}})
        for name in ("bert", "bert_adapter")
    ),
)
"""What `parity` means for gates, so that a spec says what is run."""
MASK_PRESETS: Presets = (
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


class MaskStrategy(ContinualStrategy):
    """A strategy whose `masks` are hard attention to the task.

    :param lamb: weight lambda of the sparsity loss; 0.75 in HAT's paper and the original toolkit.
    :param smax: largest scale s of the gates; 400 in HAT's paper and the original toolkit.
    :param gate_learning_rate: learning rate of the gates' embeddings; 0.05 is chosen here, see docs/presets.md, and
        with `parity` it is the optimizer's in place of 0.05.
    :param gate_mean: mean of the embeddings' initial values; 0 in HAT's reference code.
    :param gate_init: standard deviation of the embeddings' initial values; 1 in HAT's reference code, and with `parity`
        0.02 in place of 1 in an encoder.
    :param parity: restore what the original toolkit did: soft masks, gates that start and train like weights, trainable
        LayerNorms, and what `ContinualStrategy` lists.
    """

    plugin: Callable[..., MaskPlugin] = MaskPlugin

    def __init__(
        self,
        *,
        model: Any,
        lamb: Weight = 0.75,
        smax: Scale = 400.0,
        gate_learning_rate: Rate | None = GATE_LEARNING_RATE,
        gate_mean: Mean = 0.0,
        gate_init: Spread = GATE_INIT,
        parity: bool = False,
        plugins: list[Any] | None = None,
        **base_kwargs: Any,
    ) -> None:
        self.masks = self.plugin(
            continual_model(model, type(self).__name__),
            lamb=lamb,
            smax=smax,
            gate_learning_rate=gate_learning_rate,
            init_mean=gate_mean,
            init_std=gate_init,
            parity=parity,
        )
        super().__init__(model=model, plugins=[*(plugins or []), self.masks], parity=parity, **base_kwargs)


class MaskInference(MaskStrategy):
    """A mask strategy for domain-incremental learning, too, where no task label chooses the mask at test.

    :param inference: which mask serves there: that of the last trained task for every sample (`last`), or for each
        sample the one whose output has the least entropy (`entropy`).
    """

    def __init__(self, *, inference: Literal["last", "entropy"] = "last", **mask_kwargs: Any) -> None:
        super().__init__(**mask_kwargs)
        self.inference = inference

    def forward(self) -> Tensor:
        """Logits of the mini-batch; at test under the mask that `inference` chooses."""
        if self.is_training or self.masks.task_incremental or self.inference == "last":
            return super().forward()
        gates = self.masks.gates
        last = gates.override
        logits = []
        for task in gates.trained or [0]:
            gates.override = task
            logits.append(super().forward())
        gates.override = last
        return least_entropy(torch.stack(logits))
