"""Where a resumed training goes on: the protocol between a strategy and what saves its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nlpcl.training.strategy import ContinualStrategy


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


class RemainingBatches:
    """The rest of an epoch: a loader's batches after the first `done`, in the order they had.

    :param loader: as it is at the start of an epoch.
    :param done: number of batches to skip.
    :param order: torch's random state when the epoch began, from which the order of the batches follows.
    """

    def __init__(self, loader: Any, done: int, order: Tensor) -> None:
        self.loader = loader
        self.done = done
        self.order: Tensor | None = order

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self.order is None:  # the next epoch
            yield from self.loader
            return
        now = torch.get_rng_state()
        torch.set_rng_state(self.order)
        self.order = None
        batches = iter(self.loader)
        for _ in range(self.done):
            next(batches)
        torch.set_rng_state(now)
        yield from batches
