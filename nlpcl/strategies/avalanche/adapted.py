"""Avalanche's strategies where they need something else than a model and task labels, or check too little.

docs/avalanche.md says what is adapted and why. The constructors take the options that `options` declares.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import torch
from avalanche import training
from avalanche.models import avalanche_forward
from avalanche.models.base_model import BaseModel
from avalanche.training.plugins import CoPEPlugin, GSS_greedyPlugin, MIRPlugin, RWalkPlugin
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.utils import cycle
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from nlpcl.errors import UsageError
from nlpcl.models.base import Backbone, ContinualModel, TaskLabels, continual_model
from nlpcl.models.heads import SharedHead
from nlpcl.options import Options
from nlpcl.registry import Regime
from nlpcl.strategies._shared.replay import virtual_step
from nlpcl.strategies.avalanche import options as declared
from nlpcl.training.evaluators import accuracy_evaluator
from nlpcl.training.internals import criterion_of, set_criterion
from nlpcl.training.plugin import OptionsT, Strategy
from nlpcl.training.strategy import show_options


def take_options(options_type: type[OptionsT], arguments: dict[str, Any]) -> OptionsT:
    """Take the declared options out of a constructor's arguments; those that are not there get their defaults.

    :raises UsageError: a value of another type or out of range.
    """
    return options_type(**{name: arguments.pop(name) for name in options_type.declared() if name in arguments})


def shared_head(model: nn.Module, method: str) -> ContinualModel:
    """Return `model`, if it has one head for all tasks.

    :raises TypeError: it is not a `ContinualModel` with a `SharedHead`.
    """
    found = continual_model(model, method)
    if found.task_incremental:
        raise TypeError(f"{method} works on one head that all tasks share")
    return found


def classes_of(strategy: SupervisedTemplate[Any, Any, Any]) -> list[list[int]]:
    """Return the classes of each experience of the stream in training, by experience."""
    return [sorted(experience.classes_in_this_experience) for experience in strategy.experience.origin_stream]


class AvalancheEWC(training.EWC):
    """Elastic weight consolidation (Kirkpatrick et al. 2017)."""

    def __init__(self, **arguments: Any) -> None:
        options = take_options(declared.AvalancheEWCOptions, arguments)
        if (options.mode == "online") != (options.decay_factor is not None):
            raise UsageError("EWC takes a decay_factor with mode=online, and only there.")
        super().__init__(**dict(options), **arguments)


class AvalancheAGEM(training.AGEM):
    """Averaged gradient episodic memory (Chaudhry et al. 2019)."""

    def __init__(self, *, model: nn.Module, **arguments: Any) -> None:
        options, tasks = take_options(declared.AvalancheAGEMOptions, arguments), getattr(model, "n_tasks", 1)
        if options.sample_size < tasks:
            raise UsageError(f"AGEM draws from each task's memory: sample_size={tasks} or more.")
        super().__init__(model=model, **dict(options), **arguments)


class LwF(training.LwF):
    """Learning without forgetting (Li and Hoiem 2017)."""

    def __init__(self, *, model: nn.Module, **arguments: Any) -> None:
        options, tasks = take_options(declared.LwFOptions, arguments), getattr(model, "n_tasks", 1)
        if isinstance(options.alpha, list) and len(options.alpha) < tasks:
            raise UsageError(f"LwF takes one alpha, or one for each of the {tasks} tasks, not {len(options.alpha)}.")
        super().__init__(model=model, **dict(options), **arguments)


class MAS(training.MAS):
    """Memory aware synapses (Aljundi et al. 2018)."""

    def _before_backward(self, **kwargs: Any) -> None:
        # Avalanche takes a loss of exactly 0 for a missing one, and stops. This moves no other loss.
        self.loss = self.loss + torch.finfo(torch.float32).tiny
        super()._before_backward(**kwargs)


class PluginStrategy(SupervisedTemplate):
    """Avalanche's plain strategy with one of its plugins, whose options a subclass declares."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, *, model: nn.Module, plugins: list[Any] | None = None, **arguments: Any) -> None:
        model, plugin = self.adapt(model, take_options(self.options_type, arguments))
        super().__init__(model=model, plugins=[*(plugins or []), plugin], **arguments)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_options(cls, _TEMPLATE)

    def adapt(self, model: nn.Module, options: Any) -> tuple[nn.Module, Any]:
        """Return the model to train and the plugin."""
        raise NotImplementedError


_TEMPLATE = inspect.signature(SupervisedTemplate.__init__)
show_options(PluginStrategy, _TEMPLATE)


class RWalk(PluginStrategy):
    """Riemannian walk (Chaudhry et al. 2018), Avalanche's plugin on its plain strategy."""

    options_type = declared.RWalkOptions

    def adapt(self, model: nn.Module, options: declared.RWalkOptions) -> tuple[nn.Module, Any]:
        self._least = options.delta_t
        return model, RWalkPlugin(options.ewc_lambda, options.ewc_alpha, options.delta_t)

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        steps = len(self.dataloader) * self.train_epochs
        if self.clock.train_exp_counter == 0 and steps < self._least:
            # All scores would be 0, and divided by the largest of them.
            raise UsageError(f"RWalk scores every delta_t={self._least} steps, and the first task has {steps} in all.")


class FeatureModel(ContinualModel, BaseModel):
    """A `ContinualModel` that Avalanche can ask for the features (B, F), those before the head."""

    def get_features(self, x: Tensor) -> Tensor:
        return self.backbone.features(x, 0).float()


class LFL(training.LFL):
    """Less-forgetful learning (Jung et al. 2016): features stay near those of the last model, the head as it was."""

    def __init__(self, *, model: nn.Module, **arguments: Any) -> None:
        options, model = take_options(declared.LFLOptions, arguments), shared_head(model, "LFL")
        super().__init__(model=FeatureModel(model.backbone, model.heads), **dict(options), **arguments)

    def _before_training_exp(self, **kwargs: Any) -> None:
        first, *later = classes_of(self)
        if any(set(first).isdisjoint(own) for own in later):
            raise UsageError("LFL keeps the head as the first task left it, so a task of other classes is not learnt.")
        super()._before_training_exp(**kwargs)


class _CWRModel(ContinualModel):
    """A `ContinualModel` on which CWR* keeps the weights and the number of examples of each class."""

    state = ("saved_weights", "past_j")


class CWRStar(training.CWRStar):
    """CWR* (Lomonaco et al. 2020)."""

    def __init__(self, *, model: nn.Module, **arguments: Any) -> None:
        options, model = take_options(declared.CWROptions, arguments), continual_model(model, "CWRStar")
        super().__init__(model=_CWRModel(model.backbone, model.heads), **dict(options), **arguments)


class _GSSPlugin(GSS_greedyPlugin):
    """Shape and type of the memory follow the data, and its empty places are not replayed."""

    def before_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        whole, labels, filled = self.ext_mem_list_x, self.ext_mem_list_y, self.ext_mem_list_current_index
        if filled == 0:
            x = strategy.adapted_dataset[0][0]
            self.ext_mem_list_x = x.new_zeros(self.mem_size, *x.shape).to(strategy.device)
            return
        self.ext_mem_list_x, self.ext_mem_list_y = whole[:filled], labels[:filled]
        super().before_training_exp(strategy, *args, **kwargs)
        self.ext_mem_list_x, self.ext_mem_list_y = whole, labels

    def get_rand_mem_grads(self, strategy: Strategy, grad_dims: list[int], gss_batch_size: int) -> Tensor:
        # With fewer examples in memory than in a mini-batch Avalanche draws none, and looks for the largest of none.
        return super().get_rand_mem_grads(strategy, grad_dims, min(gss_batch_size, self.ext_mem_list_current_index))


class GSS_greedy(PluginStrategy):
    """Gradient-based sample selection, the greedy variant (Aljundi et al. 2019)."""

    options_type = declared.GSSOptions

    def __init__(self, *, train_mb_size: int = 1, **arguments: Any) -> None:
        self._least = train_mb_size + 32
        super().__init__(train_mb_size=train_mb_size, **arguments)

    def adapt(self, model: nn.Module, options: declared.GSSOptions) -> tuple[nn.Module, Any]:
        if options.mem_size < self._least:
            raise UsageError(
                f"GSS draws a place of its memory for each example of a step: mem_size={self._least} or more."
            )
        return shared_head(model, "GSS"), _GSSPlugin(options.mem_size, options.mem_strength)


class _MIRPlugin(MIRPlugin):
    """MIR with frozen parameters left out of its virtual step, and nothing left out of its memory."""

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.replay_loader is None:
            return
        model = strategy.model
        x, y, tasks = (part.to(strategy.device) for part in next(self.replay_loader))
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(strategy.loss, list(trainable.values()), retain_graph=True, allow_unused=True)
        with torch.no_grad():
            stepped = virtual_step(trainable, gradients, strategy.optimizer.param_groups[0]["lr"])
            before = nn.functional.cross_entropy(avalanche_forward(model, x, tasks), y, reduction="none")
            after = nn.functional.cross_entropy(functional_call(model, stepped, (x, tasks)), y, reduction="none")
        chosen = torch.argsort(after - before)[-self.batch_size_mem :]
        strategy.loss += criterion_of(strategy)(avalanche_forward(model, x[chosen], tasks[chosen]), y[chosen])

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        # Avalanche drops the classes of the last mini-batch, and with them all, where tasks share their classes.
        self.storage_policy.update(strategy, **kwargs)
        self.replay_loader = cycle(DataLoader(self.storage_policy.buffer, batch_size=self.subsample, shuffle=True))


class MIR(PluginStrategy):
    """Maximally interfered retrieval (Aljundi et al. 2019): replay what a step on the new data would harm most."""

    options_type = declared.MIROptions

    def adapt(self, model: nn.Module, options: declared.MIROptions) -> tuple[nn.Module, Any]:
        return model, _MIRPlugin(options.batch_size_mem, options.mem_size, options.subsample)


class EmbeddingHead(SharedHead):
    """A linear map to vectors (B, P) of length 1, in the place of a head."""

    def forward(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        return nn.functional.normalize(super().forward(x, task_labels), dim=1)


class _CoPEPlugin(CoPEPlugin):
    """CoPE where an experience is a whole task: what Avalanche does after an experience is done after a mini-batch."""

    def before_training(self, strategy: Strategy, **kwargs: Any) -> None:
        if not self.initialized:
            set_criterion(strategy, self.ppp_loss)
            self._init_new_prototypes(torch.arange(self.n_classes, device=strategy.device))
            self.initialized = True

    def after_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        self._update_prototypes()


class CoPE(PluginStrategy):
    """Continual prototype evolution (De Lange and Tuytelaars 2021): a prototype per class in place of a head."""

    options_type = declared.CoPEOptions

    def adapt(self, model: nn.Module, options: declared.CoPEOptions) -> tuple[nn.Module, Any]:
        shared = shared_head(model, "CoPE")
        head = EmbeddingHead(shared.backbone.width, options.p_size, shared.n_tasks)
        classes = cast(SharedHead, shared.heads).linear.out_features
        plugin = _CoPEPlugin(options.mem_size, classes, options.p_size, options.alpha, options.T)
        return ContinualModel(shared.backbone, head), plugin

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Avalanche's plugin sets it when training begins, which a resumed run has behind it.
        self._criterion = next(p for p in self.plugins if isinstance(p, _CoPEPlugin)).ppp_loss


class FeatureExtractor(nn.Module):
    """A backbone called without task labels."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.features(x, 0).float()


class ICaRL(training.ICaRL):
    """iCaRL (Rebuffi et al. 2017) for class-incremental learning: distillation, exemplars and their class means."""

    def __init__(self, *, model: nn.Module, criterion: Any = None, **arguments: Any) -> None:
        """Take the model's backbone as feature extractor and its head as classifier.

        :param criterion: not used; iCaRL has a loss of its own.
        """
        options, shared = take_options(declared.ICaRLOptions, arguments), shared_head(model, "ICaRL")
        super().__init__(
            feature_extractor=FeatureExtractor(shared.backbone),
            classifier=cast(SharedHead, shared.heads).linear,
            buffer_transform=None,
            **dict(options),
            **{"evaluator": accuracy_evaluator, **arguments},
        )

    def _before_training_exp(self, **kwargs: Any) -> None:
        classes = classes_of(self)
        order = [c for own in classes for c in own]
        if len(set(order)) < len(order):
            raise UsageError("ICaRL learns each class once, so no two tasks may share one.")
        # Avalanche's asks the experience's benchmark, which knows them only where it was made with `nc_benchmark`.
        facts = SimpleNamespace(classes_order=order, n_classes_per_exp=[len(own) for own in classes])
        self.experience.benchmark = facts
        super()._before_training_exp(**kwargs)


class JointTraining(training.JointTraining):
    """Avalanche's, which is driven over the whole stream at once."""

    protocol: Regime = "joint"
