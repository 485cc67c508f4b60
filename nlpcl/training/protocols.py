"""What plugins may use of a strategy and of an experience: our own strategies have it, and Avalanche's have it, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from avalanche.benchmarks import CLStream
from avalanche.benchmarks.utils import TaskAwareSupervisedClassificationDataset
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from nlpcl.training.strategy import ContinualStrategy

TaskData: TypeAlias = TaskAwareSupervisedClassificationDataset[Any]
"""Examples with targets and task labels, as Avalanche holds them."""


class Loader(Protocol):
    """Mini-batches of one pass over the data."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[Tensor]]: ...


class Experience(Protocol):
    """A task of a stream that this package made."""

    classes_in_this_experience: list[int]
    task_labels: list[int]
    task_name: str

    @property
    def current_experience(self) -> int:
        """Index of the task in its stream, from 0."""
        ...

    @property
    def origin_stream(self) -> CLStream[Any]: ...
    @property
    def dataset(self) -> TaskData: ...


class Strategy(Protocol):
    """A supervised strategy while it trains or is tested, when all of this is there."""

    device: torch.device
    optimizer: Optimizer
    plugins: list[BasePlugin[Any]]
    evaluator: EvaluationPlugin
    clock: Clock
    is_training: bool
    train_epochs: int
    train_mb_size: int
    eval_mb_size: int
    loss: Tensor
    dataloader: Loader
    adapted_dataset: TaskData
    """Data of the experience, as plugins have changed them."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def experience(self) -> Experience: ...
    @property
    def mb_x(self) -> Tensor: ...
    @property
    def mb_y(self) -> Tensor: ...
    @property
    def mb_task_id(self) -> Tensor: ...
    @property
    def mb_output(self) -> Tensor: ...


class Checkpointer(Protocol):
    """Is called at the points where a training can be interrupted, and says where it goes on."""

    joining: bool
    """Whether the next epoch goes on from its middle, so that its first hooks are not called again."""

    def enter(self, strategy: ContinualStrategy) -> int | None:
        """Return the epoch with which to begin a pass over an experience; None if the pass is over."""

    def begin_epoch(self, strategy: ContinualStrategy, epoch: int) -> None:
        """Note that the batches of an epoch are about to be drawn."""

    def stepped(self, strategy: ContinualStrategy) -> None:
        """Save a checkpoint if one is due, after a complete step."""
