"""What every strategy shares: a fresh optimizer per experience, schedule, clipping and precision."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
from avalanche.training import JointTraining
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.optim import Optimizer

from nlpcl.models.base import ContinualModel, continual_model, single_task
from nlpcl.models.device import PAGE_LOCKED, to_device
from nlpcl.models.sizes import model_bytes
from nlpcl.options import Options, option, show_signature, with_options
from nlpcl.registry import Regime
from nlpcl.training import distributed
from nlpcl.training.batches import batch_rows, loader_of
from nlpcl.training.early_stopping import EarlyStopping
from nlpcl.training.evaluators import accuracy_evaluator
from nlpcl.training.finite import not_finite
from nlpcl.training.forward import logits_of, on_device
from nlpcl.training.internals import Criterion
from nlpcl.training.optimizers import linear_schedule, new_optimizer, original_schedule, uncorrected
from nlpcl.training.plugin import Checkpointer, Experience, Strategy

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["constant", "linear", "plateau"]


def minibatch_rows(strategy: Strategy) -> int:
    """Rows of the mini-batch in training, of all processes together; also of Avalanche's own strategies'."""
    return getattr(strategy, "mb_rows", 0) or len(strategy.mb_y)


def protocol_of(strategy: object) -> Regime:
    """Return how a strategy is driven: as its class says; Avalanche's JointTraining jointly, its others continually."""
    avalanches: Regime = "joint" if isinstance(strategy, JointTraining) else "continual"
    return getattr(strategy, "protocol", avalanches)


class StrategyOptions(Options):
    """The options that every strategy of this package has."""

    parity: bool = option(
        False,
        "restore what the original toolkit did and this one does not: the linear schedule applied twice, Adam without "
        "bias correction, the gradient clipped tensor by tensor, pooler frozen, operators that see padding",
    )


class ContinualStrategy(SupervisedTemplate):
    """Avalanche's supervised template with what transformers need.

    Texts come in batches of like length. The optimizer passed in is a template: each experience starts with a new
    one of the same class and settings over the parameters that then train, without weight decay on biases and
    LayerNorms. A plugin with a method `parameter_group(strategy) -> dict` gives its parameters a group of their own,
    which the strategy does not clip.

    Where several processes train together (`nlpcl.training.distributed`), the loss while a plugin sees it is that of
    the process's own rows; after the backward pass gradients and loss are those of the whole mini-batch, of `mb_rows`
    rows.

    :param model: called as `model(x, task_labels)`.
    :param optimizer: template of the optimizer of every experience.
    :param criterion: loss of the logits (B, C) and the labels (B,).
    :param evaluator: as in Avalanche; by default accuracy is measured and nothing is printed.
    :param precision: fp32, or autocast to bf16 or fp16 (the latter with loss scaling).
    :param schedule: `constant`, `linear` warm-up and decay over each experience, or `plateau`: constant until the
        validation loss stalls, see `patience`.
    :param warmup: share of an experience's steps in which the learning rate rises, in [0, 1].
    :param clip_norm: largest norm of the gradient of all clipped parameters together; None: no clipping.
    :param best_epoch: at the end of an experience restore the parameters of the epoch with the lowest loss on its
        validation data, which its benchmark's `valid_stream` holds; on a plateau schedule always so.
    :param patience: on a plateau schedule, epochs without a lower validation loss before the rate is lowered.
    :param plateau_factor: what it is divided by then, above 1.
    :param min_learning_rate: training of the experience ends when the rate would fall below.
    :param options: the method's own, which `options_type` declares.
    """

    plugin_type: ClassVar[Any] = None
    """The class of the plugin that is the method, whose options a strategy has; None means that there is no plugin."""
    options_type: ClassVar[type[StrategyOptions]] = StrategyOptions
    options: Any
    protocol: Regime = "continual"
    """How it is driven, as `StrategyEntry` says; a subclass has that of its base."""
    experience: Experience
    _tasks: Tensor | int
    _unpacked: Tensor | None
    state: ClassVar[tuple[str, ...]] = ("plugins", "early_stopping", "scaler")
    task_state: ClassVar[tuple[str, ...]] = ("optimizer", "_scheduler", "_bad_step", "_stop_training")

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Criterion = nn.CrossEntropyLoss(),  # noqa: B008 - Avalanche's default, and stateless
        train_mb_size: int = 32,
        train_epochs: int = 1,
        eval_mb_size: int | None = 128,
        device: str | torch.device = "cpu",
        plugins: list[Any] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = accuracy_evaluator,
        eval_every: int = -1,
        precision: Precision = "fp32",
        schedule: Schedule = "constant",
        warmup: float = 0.1,
        clip_norm: float | None = None,
        best_epoch: bool = False,
        patience: int = 5,
        plateau_factor: float = 3.0,
        min_learning_rate: float = 1e-4,
        peval_mode: Literal["epoch", "experience", "iteration"] = "epoch",
        **options: Any,
    ) -> None:
        self.options = self.options_type(**options)
        self.parity = self.options.parity
        if self.parity and isinstance(model, ContinualModel):
            model.backbone.set_parity()
        model = self.make_model(model)
        plugin = self.make_plugin(model, optimizer)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or []), *([] if plugin is None else [plugin])],
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
        )
        self.precision = precision
        self.schedule = schedule
        self.warmup = warmup
        self.clip_norm = clip_norm
        self.early_stopping = EarlyStopping(
            best_epoch, schedule == "plateau", patience, plateau_factor, min_learning_rate
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.checkpointer: Checkpointer | None = None
        self._template = optimizer
        self._scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
        self._clipped: list[nn.Parameter] = []
        self._bad_step = torch.tensor(-1)
        self._noise = ExitStack()
        self.optimized_param_id: dict[str, nn.Parameter] = {}  # not None: Avalanche asks
        self._drop_batch()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "plugin_type" in vars(cls) and "options_type" not in vars(cls):
            cls.options_type = cls.plugin_type.options_type
        show_options(cls, CONSTRUCTOR)

    def make_model(self, model: nn.Module) -> nn.Module:
        """Return the model to train, the one passed in or one around it; `self.options` is set."""
        return model

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> Any:
        """Return the plugin that is the method, or None; `self.options` is set, the strategy is not yet built.

        A `plugin_type` whose constructor has a parameter `model` shapes the layers of a `ContinualModel`.

        :param optimizer: the template, to which a method may add groups.
        """
        if self.plugin_type is None:
            return None
        if "model" in inspect.signature(self.plugin_type).parameters:
            return self.plugin_type(continual_model(model, type(self).__name__), self.options)
        return self.plugin_type(self.options)

    def make_train_dataloader(self, shuffle: bool = True, num_workers: int = 0, **kwargs: Any) -> None:
        """Batches drawn uniformly from the (adapted) data of the experience, whatever their tasks."""
        batches = batch_rows(self.adapted_dataset, self.train_mb_size, shuffle=shuffle)
        self.dataloader = loader_of(self.adapted_dataset, batches, num_workers, pin=self.device.type in PAGE_LOCKED)

    def make_eval_dataloader(self, shuffle: bool = False, num_workers: int = 0, **kwargs: Any) -> None:
        """Batches of this process's share of the experience to test; texts come sorted by length."""
        batches = batch_rows(self.adapted_dataset, self.eval_mb_size, shuffle=shuffle, shard=distributed.shard_index())
        self.dataloader = loader_of(self.adapted_dataset, batches, num_workers, pin=self.device.type in PAGE_LOCKED)

    def make_optimizer(self, **kwargs: Any) -> None:
        """A new optimizer for the experience; parameters without `requires_grad` do not reach it."""
        groups = [plugin.parameter_group(self) for plugin in self.plugins if hasattr(plugin, "parameter_group")]
        self.optimizer = new_optimizer(self._template, self.model, groups)
        own = {id(p) for group in groups for p in group["params"]}
        self._clipped = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]

    def _before_training_exp(self, **kwargs: Any) -> None:
        self._bad_step = torch.tensor(-1, device=self.device)
        self.early_stopping.begin()  # before there is a schedule, which asks for the rate's factor at once
        distributed.broadcast_model(self.model)
        super()._before_training_exp(**kwargs)
        betas = self.optimizer.defaults.get("betas")

        def factor(step: int) -> float:
            of_schedule = self.schedule_factor(step)
            return of_schedule * uncorrected(step, betas) if self.parity and betas else of_schedule

        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def schedule_factor(self, step: int) -> float:
        """Return the factor of the schedule on the learning rate at a step of the experience in training."""
        if self.schedule != "linear":
            return self.early_stopping.scale
        total = len(self.dataloader) * self.train_epochs
        return (original_schedule if self.parity else linear_schedule)(step, total, self.warmup)

    def _train_exp(self, experience: Experience, eval_streams: Any = None, **kwargs: Any) -> None:
        """Avalanche's loop over the epochs, which a checkpoint may join at a later step.

        :raises UsageError: a loss was not finite.
        """
        first = 0 if self.checkpointer is None else self.checkpointer.enter(self)
        if first is None:
            return
        for epoch in range(first, self.train_epochs):
            if self.checkpointer is None or not self.checkpointer.joining:
                self._before_training_epoch(**kwargs)
            if self._stop_training:
                self._stop_training = False
                break
            if self.checkpointer is not None:
                self.checkpointer.begin_epoch(self, epoch)
            self.training_epoch(**kwargs)
            self.check_losses()
            self._after_training_epoch(**kwargs)
            if self.early_stopping.active and self.early_stopping.after_epoch(self, epoch):
                break
            # A rate that was lowered holds for the next step already.
            if self._scheduler is not None and self.early_stopping.plateau:
                factor = self._scheduler.lr_lambdas[0](self._scheduler.last_epoch)
                for group, rate in zip(self.optimizer.param_groups, self._scheduler.base_lrs, strict=True):
                    group["lr"] = rate * factor
        if self.early_stopping.active:
            self.early_stopping.finish(self)

    def _after_training_iteration(self, **kwargs: Any) -> None:
        bad = ~self.loss.detach().isfinite().all() & (self._bad_step < 0)
        self._bad_step = torch.where(bad, self.clock.train_exp_iterations, self._bad_step)
        super()._after_training_iteration(**kwargs)
        if self.checkpointer is not None:
            self.checkpointer.stepped(self)

    def check_losses(self) -> None:
        """Look, which waits for the device, whether all losses of the experience so far were finite.

        :raises UsageError: one was not.
        """
        step = int(self._bad_step)
        if step >= 0:
            raise not_finite(self, "loss", f"first in step {step + 1}")

    def eval_epoch(self, **kwargs: Any) -> None:
        """Avalanche's loop over the batches of an experience to test, in inference mode."""
        with torch.inference_mode():
            super().eval_epoch(**kwargs)

    def _unpack_minibatch(self) -> None:
        # Looked at before the copy to the device, where it would have to wait for it.
        self._tasks = single_task(self.mbatch[-1])
        if self.is_training:
            self.mb_rows, self._alike = len(self.mbatch[1]), isinstance(self._tasks, int)
            self.mbatch = [distributed.shard(column) for column in self.mbatch]
            self._tasks = self._tasks if self._alike else single_task(self.mbatch[-1])
        x, *others = self.mbatch
        self.mbatch = [on_device(self, x), *(to_device(column, self.device) for column in others)]
        super()._unpack_minibatch()
        self._unpacked = self.mbatch[-1]

    def _drop_batch(self) -> None:
        """Drop what is known of the last mini-batch."""
        if isinstance(self.model, ContinualModel):
            self.model.backbone.context.clear()
        self._tasks = 0
        self._unpacked = None
        self.mb_rows = 0
        self._alike = True

    def _train_cleanup(self) -> None:
        super()._train_cleanup()
        self._drop_batch()

    def _eval_cleanup(self) -> None:
        super()._eval_cleanup()
        self._drop_batch()

    def _before_forward(self, **kwargs: Any) -> None:
        super()._before_forward(**kwargs)
        self._noise.enter_context(distributed.fork_rng(self.device, self.clock.train_iterations))

    def forward(self) -> Tensor:
        """Logits of the mini-batch, in float32."""
        return logits_of(self, self.mb_x, self.tasks)

    @property
    def tasks(self) -> Tensor | int:
        """Task labels of the mini-batch on the host, or one int; its own if a plugin has put another in its place."""
        return self._tasks if self.mbatch[-1] is self._unpacked else self.mb_task_id

    def validation_criterion(self, x: Tensor, y: Tensor, task_labels: Tensor | int) -> Tensor:
        """Return the mean loss of a mini-batch of validation data, along the path that is being trained.

        A method whose training takes another path than its test overrides this.

        :param x: inputs on the device.
        :param y: labels (B,) on the device.
        """
        return self._criterion(logits_of(self, x, task_labels), y)

    def engine_settings(self) -> dict[str, Any]:
        """Return the arguments with which a training inside this one follows its settings."""
        names = ("precision", "schedule", "warmup", "clip_norm", "parity")
        of_selection = ("patience", "plateau_factor", "min_learning_rate")
        settings = {name: getattr(self, name) for name in names}
        settings |= {name: getattr(self.early_stopping, name) for name in of_selection}
        return {**settings, "best_epoch": self.early_stopping.active}

    def backward(self) -> None:
        """Backward pass; afterwards gradients are unscaled and the whole mini-batch's, so plugins see the true ones."""
        if distributed.world_size() > 1:
            # This process's part of the mean over all rows. The weights add up to 1, so a term that is the same in all
            # processes, such as a penalty, counts once.
            self.loss = self.loss * (len(distributed.local_rows(self.mb_rows)) / self.mb_rows)
        self.scaler.scale(self.loss).backward(retain_graph=self.retain_graph)
        self._noise.close()
        if distributed.world_size() > 1:
            parameters = (p for group in self.optimizer.param_groups for p in group["params"])
            self.loss = distributed.all_reduce_gradients(parameters, self.loss, self._alike)
        self.scaler.unscale_(self.optimizer)

    def clip_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Clip the gradients of parameters, together or, with `parity`, each by itself."""
        if self.clip_norm is not None:
            for together in [[p] for p in parameters] if self.parity else [parameters]:
                nn.utils.clip_grad_norm_(together, self.clip_norm)

    def optimizer_step(self) -> None:
        """Clip, step, and move the schedule on."""
        self.clip_gradients(self._clipped)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        overflown = self.scaler.get_scale() < scale  # the scaler has left the step out
        if self._scheduler is not None and not overflown:  # none yet in a step made by hand
            self._scheduler.step()

    def kept_bytes(self, tasks: int) -> dict[str, int]:
        """Bytes that must be kept once `tasks` tasks are trained, by kind: the model's and what plugins hold.

        A plugin that keeps something outside the model has a method `kept_bytes() -> dict[str, int]`.
        """
        found = model_bytes(self.model, tasks)
        for plugin in self.plugins:
            if hasattr(plugin, "kept_bytes"):
                found |= plugin.kept_bytes()
        return found


def show_options(cls: Any, constructor: inspect.Signature) -> None:
    """Let `help()` show a strategy's options in its signature, and let `options_type` alone check their names.

    Avalanche wraps the constructor of each subclass to refuse arguments that no constructor names.

    :param cls: a strategy, one of ours or a subclass of Avalanche's.
    :param constructor: signature of the constructor of the base that takes options.
    """
    cls.__init__ = cls.__init__.__wrapped__
    show_signature(cls, with_options(constructor, cls.options_type))


CONSTRUCTOR = inspect.signature(ContinualStrategy.__init__)
show_options(ContinualStrategy, CONSTRUCTOR)
