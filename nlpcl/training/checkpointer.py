"""Where a training may be joined again: the seam between a strategy and what saves checkpoints of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


class Checkpointer(Protocol):
    """Told at the points where a training can be interrupted, and asked where to join it."""

    joining: bool
    """Whether the epoch about to begin goes on from its middle, so that it is not announced again."""

    def enter(self, strategy: Any) -> int | None:
        """At the start of a pass over an experience's epochs: the epoch to begin with; None if the pass is over."""

    def begin_epoch(self, strategy: Any, epoch: int) -> None:
        """Right before the batches of an epoch are drawn."""

    def stepped(self, strategy: Any) -> None:
        """After a step, when nothing of it is left to be done."""


class RemainingBatches:
    """What is left of an epoch: a loader's batches after the first `done`, in the order they had.

    :param loader: as it is at the start of an epoch.
    :param done: number of batches to leave out.
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
