"""Early stopping on validation data: restore the best epoch, and lower the learning rate on a plateau."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlpcl.errors import UsageError
from nlpcl.models.base import single_task
from nlpcl.training import distributed
from nlpcl.training.batches import numbered_batches
from nlpcl.training.forward import mode, on_device
from nlpcl.training.internals import experiences_of
from nlpcl.training.plugin import Experience, Strategy, TaskData

if TYPE_CHECKING:
    from nlpcl.training.strategy import ContinualStrategy


def validation_of(experience: Experience) -> TaskData | None:
    """Return the validation data of a training experience, or None if its benchmark has none."""
    benchmark = getattr(experience.origin_stream, "benchmark", None)
    stream = getattr(benchmark, "valid_stream", None)
    return stream[experience.current_experience].dataset.eval() if stream else None


class EarlyStopping:
    """Restores the parameters of the epoch with the lowest validation loss; can lower the learning rate on a plateau.

    On a plateau, as in the code of HAT: after `patience` epochs without a lower loss the rate is divided by
    `plateau_factor`, and once it is below `min_learning_rate` the experience ends.

    :param best_epoch: restore the best epoch, even without a plateau schedule.
    :param plateau: follow the plateau schedule, which always restores the best epoch.
    :param patience: epochs, at least 1.
    :param plateau_factor: above 1.
    :param min_learning_rate: at least 0.
    :raises UsageError: a number out of range.
    """

    state = ("best_epochs",)
    task_state = ("scale", "best_loss", "best_epoch", "stalled", "parameters")

    def __init__(
        self, best_epoch: bool, plateau: bool, patience: int, plateau_factor: float, min_learning_rate: float
    ) -> None:
        if patience < 1:
            raise UsageError(f"patience must be at least 1, not {patience}.")
        if plateau_factor <= 1:
            raise UsageError(f"plateau_factor must be above 1, not {plateau_factor}.")
        self.active = best_epoch or plateau
        self.plateau = plateau
        self.patience = patience
        self.plateau_factor = plateau_factor
        self.min_learning_rate = min_learning_rate
        self.best_epochs: list[int] = []
        """By training so far the epoch, from 1, whose parameters were restored."""
        self.begin()

    def begin(self) -> None:
        """Forget the last experience, before the first epoch of the next."""
        self.scale = 1.0
        """Factor on the learning rate."""
        self.best_loss = float("inf")
        self.best_epoch = 0
        self.stalled = 0
        self.parameters: dict[str, Tensor] = {}

    def after_epoch(self, strategy: ContinualStrategy, epoch: int) -> bool:
        """Test on the validation data; return whether the experience's training is over."""
        loss = validation_loss(strategy)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.stalled = loss, epoch + 1, 0
            trained = {n: p for n, p in strategy.model.named_parameters() if p.requires_grad}
            self.parameters = {name: p.detach().clone() for name, p in trained.items()}
            return False
        self.stalled += 1
        if not self.plateau or self.stalled < self.patience:
            return False
        self.stalled = 0
        # Not ReduceLROnPlateau: it writes into the optimizer, whose rate LambdaLR sets anew at each step, and it
        # multiplies by 1 / plateau_factor, which rounds otherwise.
        self.scale /= self.plateau_factor
        return bool(strategy.optimizer.defaults["lr"] * self.scale < self.min_learning_rate)

    @torch.no_grad()
    def finish(self, strategy: Strategy) -> None:
        """Restore the parameters of the best epoch, after the last one."""
        for name, value in self.parameters.items():
            strategy.model.get_parameter(name).copy_(value)
        self.best_epochs.append(self.best_epoch)
        self.parameters = {}


@torch.no_grad()
def validation_loss(strategy: ContinualStrategy) -> float:
    """Return the mean loss over the validation data of the experience in training; no random state moves.

    :raises UsageError: its benchmark has none.
    """
    experiences = experiences_of(strategy)
    datasets = [data for data in map(validation_of, experiences) if data is not None]
    if len(datasets) < len(experiences):
        raise UsageError("best_epoch and the plateau schedule need a benchmark with validation data, a valid_stream.")
    data = reduce(lambda left, right: left.concat(right), datasets)
    total = torch.zeros((), device=strategy.device)
    with mode(strategy.model, training=False):
        for _, (x, y, *_, tasks) in numbered_batches(data, strategy.eval_mb_size, distributed.shard_index()):
            loss = strategy.validation_criterion(on_device(strategy, x), y.to(strategy.device), single_task(tasks))
            total += len(y) * loss
    return float(distributed.all_reduce(total)) / len(data)
