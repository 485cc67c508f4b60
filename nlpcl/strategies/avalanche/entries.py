"""Avalanche's own strategies, under their names: `avalanche/LwF`, `avalanche/EWC`, ...

They run as Avalanche wrote them, with its optimizer handling, in float32 and at a constant learning rate. Where a
class has an option without a default, one is given here so that the name alone works. The classes in this file are
Avalanche's where those need something else than a model and task labels; docs/avalanche.md says what and why, and
which of Avalanche's strategies do not run here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from avalanche import training
from avalanche.models import avalanche_forward
from avalanche.models.base_model import BaseModel
from avalanche.training.plugins import CoPEPlugin, GSS_greedyPlugin, MIRPlugin, RWalkPlugin
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.utils import cycle
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from nlpcl.errors import UsageError
from nlpcl.models.base import Backbone, ContinualModel, TaskLabels
from nlpcl.models.heads import SharedHead
from nlpcl.ranges import Count, Share, Temperature, Weight, Width
from nlpcl.registry import Regime, register_strategy
from nlpcl.strategies.avalanche.checks import AGEM, EWC, TYPES, LwF
from nlpcl.training.strategy import accuracy_evaluator, continual_model


def shared_head(model: nn.Module, method: str) -> ContinualModel:
    """`model`, if it has one head for all tasks.

    :raises TypeError: it is not a `ContinualModel` with a `SharedHead`.
    """
    found = continual_model(model, method)
    if found.task_incremental:
        raise TypeError(f"{method} works on one head that all tasks share")
    return found


def classes_of(strategy: Any) -> list[list[int]]:
    """The classes of each experience of the stream in training, by experience."""
    return [sorted(experience.classes_in_this_experience) for experience in strategy.experience.origin_stream]


class MAS(training.MAS):
    """Memory aware synapses (Aljundi et al. 2018)."""

    loss: Tensor

    def _before_backward(self, **kwargs: Any) -> None:
        # Avalanche takes a loss of exactly 0 for a missing one, and stops. This moves no other loss.
        self.loss = self.loss + torch.finfo(torch.float32).tiny
        super()._before_backward(**kwargs)


class RWalk(SupervisedTemplate):
    """Riemannian walk (Chaudhry et al. 2018), Avalanche's plugin on its plain strategy."""

    def __init__(
        self,
        *,
        ewc_lambda: Weight = 0.1,
        ewc_alpha: Share = 0.9,
        delta_t: Count = 10,
        plugins: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in Avalanche's plugin.

        :param ewc_lambda: factor on the penalty.
        :param ewc_alpha: weight of the newest importance in its moving average, in [0, 1].
        :param delta_t: steps between two updates of the scores; the first experience must have so many.
        """
        self._least = delta_t
        plugin = RWalkPlugin(ewc_lambda, ewc_alpha, delta_t)
        super().__init__(plugins=[*(plugins or []), plugin], **kwargs)

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        steps = len(self.dataloader) * self.train_epochs  # type: ignore[arg-type]
        if self.clock.train_exp_counter == 0 and steps < self._least:
            # All scores would be 0, and divided by the largest of them.
            raise UsageError(f"RWalk scores every delta_t={self._least} steps, and the first task has {steps} in all.")


class FeatureModel(ContinualModel, BaseModel):
    """A `ContinualModel` that Avalanche can ask for the features (B, F), those before the head."""

    def get_features(self, x: Tensor) -> Tensor:
        return self.backbone.features(x, 0).float()


class LFL(training.LFL):
    """Less-forgetful learning (Jung et al. 2016): features stay near those of the last model, the head as it was."""

    def __init__(self, *, model: nn.Module, lambda_e: Weight = 1.0, **kwargs: Any) -> None:
        """As in Avalanche.

        :param lambda_e: factor on the mean squared distance of the features.
        """
        model = shared_head(model, "LFL")
        super().__init__(model=FeatureModel(model.backbone, model.heads), lambda_e=lambda_e, **kwargs)

    def _before_training_exp(self, **kwargs: Any) -> None:
        first, *later = classes_of(self)
        if any(set(first).isdisjoint(own) for own in later):
            raise UsageError("LFL keeps the head as the first task left it, so a task of other classes is not learnt.")
        super()._before_training_exp(**kwargs)


class _GSSPlugin(GSS_greedyPlugin):
    """Shape and type of the memory follow the data, and its empty places are not replayed."""

    ext_mem_list_x: Tensor
    ext_mem_list_y: Tensor

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        whole, labels, filled = self.ext_mem_list_x, self.ext_mem_list_y, self.ext_mem_list_current_index
        if filled == 0:
            x = strategy.adapted_dataset[0][0]
            self.ext_mem_list_x = x.new_zeros(self.mem_size, *x.shape).to(strategy.device)
            return
        self.ext_mem_list_x, self.ext_mem_list_y = whole[:filled], labels[:filled]
        super().before_training_exp(strategy, *args, **kwargs)
        self.ext_mem_list_x, self.ext_mem_list_y = whole, labels

    def get_rand_mem_grads(self, strategy: Any, grad_dims: list[int], gss_batch_size: int) -> Tensor:
        # With fewer examples in memory than in a mini-batch Avalanche draws none, and looks for the largest of none.
        return super().get_rand_mem_grads(strategy, grad_dims, min(gss_batch_size, self.ext_mem_list_current_index))


class GSS_greedy(SupervisedTemplate):
    """Gradient-based sample selection, the greedy variant (Aljundi et al. 2019)."""

    def __init__(
        self,
        *,
        model: nn.Module,
        mem_size: Count = 200,
        mem_strength: Count = 1,
        plugins: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in Avalanche.

        :param mem_size: examples in the memory; at least a mini-batch and the 32 that Avalanche replays with it.
        :param mem_strength: gradients of the memory that a new example's gradient is compared with.
        """
        least = kwargs.get("train_mb_size", 1) + 32
        if mem_size < least:
            raise UsageError(f"GSS draws a place of its memory for each example of a step: mem_size={least} or more.")
        plugin = _GSSPlugin(mem_size, mem_strength)
        super().__init__(model=shared_head(model, "GSS"), plugins=[*(plugins or []), plugin], **kwargs)


class _MIRPlugin(MIRPlugin):
    """MIR with frozen parameters left out of its virtual step, and nothing left out of its memory."""

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.replay_loader is None:
            return
        model = strategy.model
        x, y, tasks = (part.to(strategy.device) for part in next(self.replay_loader))
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(strategy.loss, list(trainable.values()), retain_graph=True, allow_unused=True)
        rate = strategy.optimizer.param_groups[0]["lr"]
        stepped = {
            name: p.detach() - rate * gradient
            for (name, p), gradient in zip(trainable.items(), gradients, strict=True)
            if gradient is not None
        }
        with torch.no_grad():
            before = nn.functional.cross_entropy(avalanche_forward(model, x, tasks), y, reduction="none")
            after = nn.functional.cross_entropy(functional_call(model, stepped, (x, tasks)), y, reduction="none")
        chosen = torch.argsort(after - before)[-self.batch_size_mem :]
        strategy.loss += strategy._criterion(avalanche_forward(model, x[chosen], tasks[chosen]), y[chosen])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        # Avalanche drops the classes of the last mini-batch, and with them all, where tasks share their classes.
        self.storage_policy.update(strategy, **kwargs)
        self.replay_loader = cycle(DataLoader(self.storage_policy.buffer, batch_size=self.subsample, shuffle=True))


class MIR(SupervisedTemplate):
    """Maximally interfered retrieval (Aljundi et al. 2019): replay what a step on the new data would harm most."""

    def __init__(
        self,
        *,
        mem_size: Count = 200,
        subsample: Count = 50,
        batch_size_mem: Count = 10,
        plugins: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in Avalanche.

        :param mem_size: examples in the memory, of all classes alike.
        :param subsample: how many are drawn from it at a step.
        :param batch_size_mem: how many of these are replayed.
        """
        plugin = _MIRPlugin(batch_size_mem, mem_size, subsample)
        super().__init__(plugins=[*(plugins or []), plugin], **kwargs)


class EmbeddingHead(SharedHead):
    """A linear map to vectors (B, P) of length 1, in the place of a head."""

    def forward(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        return nn.functional.normalize(super().forward(x, task_labels), dim=1)


class _CoPEPlugin(CoPEPlugin):
    """CoPE where an experience is a whole task: what Avalanche does after an experience is done after a mini-batch."""

    initialized: bool

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        if not self.initialized:
            strategy._criterion = self.ppp_loss
            self._init_new_prototypes(torch.arange(self.n_classes, device=strategy.device))
            self.initialized = True

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._update_prototypes()


class CoPE(SupervisedTemplate):
    """Continual prototype evolution (De Lange and Tuytelaars 2021): a prototype per class in place of a head."""

    def __init__(
        self,
        *,
        model: nn.Module,
        mem_size: Count = 200,
        p_size: Width = 100,
        alpha: Share = 0.99,
        T: Temperature = 0.1,
        plugins: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in Avalanche.

        :param mem_size: examples in the memory, of all classes alike.
        :param p_size: width of the embedding.
        :param alpha: momentum of the prototypes.
        :param T: temperature of the softmax.
        """
        model = shared_head(model, "CoPE")
        head = EmbeddingHead(model.backbone.width, p_size, model.n_tasks)
        plugin = _CoPEPlugin(mem_size, model.heads.linear.out_features, p_size, alpha, T)  # type: ignore[union-attr]
        super().__init__(model=ContinualModel(model.backbone, head), plugins=[*(plugins or []), plugin], **kwargs)
        self._criterion = plugin.ppp_loss  # as Avalanche sets it when training begins


class FeatureExtractor(nn.Module):
    """A backbone called without task labels."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.features(x, 0).float()


class ICaRL(training.ICaRL):
    """iCaRL (Rebuffi et al. 2017) for class-incremental learning: distillation, exemplars and their class means."""

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Any = None,
        memory_size: Count = 200,
        fixed_memory: bool = True,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int = 128,
        device: str | torch.device = "cpu",
        plugins: list[Any] | None = None,
        evaluator: Any = accuracy_evaluator,
        eval_every: int = -1,
    ) -> None:
        """As in Avalanche, with the model's backbone as feature extractor and its head as classifier.

        :param criterion: not used; iCaRL has a loss of its own.
        :param memory_size: exemplars of all classes together.
        :param fixed_memory: if not, so many of each class.
        """
        model = shared_head(model, "ICaRL")
        super().__init__(
            feature_extractor=FeatureExtractor(model.backbone),
            classifier=model.heads.linear,
            optimizer=optimizer,
            memory_size=memory_size,
            buffer_transform=None,
            fixed_memory=fixed_memory,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
        )

    def _before_training_exp(self, **kwargs: Any) -> None:
        classes = classes_of(self)
        order = [c for own in classes for c in own]
        if len(set(order)) < len(order):
            raise UsageError("ICaRL learns each class once, so no two tasks may share one.")
        # Avalanche's asks the experience's benchmark, which knows them only where it was made with `nc_benchmark`.
        facts = SimpleNamespace(classes_order=order, n_classes_per_exp=[len(own) for own in classes])
        self.experience.benchmark = facts  # type: ignore[union-attr]
        super()._before_training_exp(**kwargs)


class JointTraining(training.JointTraining):
    """Avalanche's, which is driven over the whole stream at once."""

    protocol: Regime = "joint"


# One list of facts: what a method remembers, where it runs, and options to which Avalanche gives no default. LwF's
# alpha and temperature are those of Li and Hoiem 2017, the others ours.
ENTRIES: dict[Callable[..., Any], dict[str, Any]] = {
    training.Naive: {},
    EWC: {"defaults": {"ewc_lambda": 1.0}},
    training.Replay: {"replay": True, "aliases": ("avalanche/ER",)},
    training.GEM: {"replay": True, "defaults": {"patterns_per_exp": 64}},
    AGEM: {"replay": True, "defaults": {"patterns_per_exp": 64}},
    LwF: {"defaults": {"alpha": 1.0, "temperature": 2.0}},
    training.SynapticIntelligence: {"defaults": {"si_lambda": 1.0}, "aliases": ("avalanche/SI",)},
    MAS: {"types": {"lambda_reg": Weight, "alpha": Share}},
    training.DER: {
        "replay": True,
        "scenarios": ("dil",),
        "reason": "Avalanche's DER computes its targets without task labels",
        "aliases": ("avalanche/DER++",),
    },
    RWalk: {},
    LFL: {"scenarios": ("dil",), "reason": "after the first task Avalanche's LFL freezes the last head of the model"},
    GSS_greedy: {
        "replay": True,
        "scenarios": ("dil",),
        "reason": "Avalanche's GSS computes the gradients of its memory without task labels",
        "aliases": ("avalanche/GSS",),
    },
    MIR: {"replay": True},
    training.MER: {"replay": True},
    CoPE: {"replay": True, "scenarios": ("dil",), "reason": "CoPE has one prototype per class in place of heads"},
    ICaRL: {"replay": True, "scenarios": ("cil",), "reason": "iCaRL learns each class once, in one task"},
    training.GDumb: {"replay": True},
    training.ER_ACE: {"replay": True},
    training.CWRStar: {
        "scenarios": ("dil",),
        "reason": "after the first task Avalanche's CWRStar trains one head only",
        "defaults": {"cwr_layer_name": "heads.linear"},
        "aliases": ("avalanche/CWR*", "avalanche/CWR"),
    },
    training.Cumulative: {},
    training.FromScratchTraining: {},
    JointTraining: {"aliases": ("avalanche/Joint",)},
}

WHOLE = "Avalanche's own classes neither share out every mini-batch nor sum what each process finds"

for _target, _facts in ENTRIES.items():
    _name = _target.__name__
    register_strategy(
        f"avalanche/{_name}",
        **{
            "title": f"Avalanche's {_name}",
            "url": "https://avalanche.continualai.org",
            "engine": False,
            "ddp_reason": WHOLE,
            "types": TYPES.get(_target, {}),
            **_facts,
        },
    )(_target)
