"""What a run tells while it runs."""

from __future__ import annotations

import time
from typing import Any, Protocol

from avalanche.core import SupervisedPlugin


class Progress(Protocol):
    """What `run` tells while it runs; `nlpcl.display.ProgressReporter` shows it."""

    def encoded(self, done: int, examples: int) -> None: ...
    def start(self, tasks: list[str], epochs: list[int]) -> None: ...
    def epoch(self, task: int, epoch: int, loss: float, step: int, steps: int) -> None: ...
    def evaluated(self, row: int, accuracies: list[float | None]) -> None: ...
    def say(self, sentence: str) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """Shows nothing."""

    def encoded(self, done: int, examples: int) -> None: ...
    def start(self, tasks: list[str], epochs: list[int]) -> None: ...
    def epoch(self, task: int, epoch: int, loss: float, step: int, steps: int) -> None: ...
    def evaluated(self, row: int, accuracies: list[float | None]) -> None: ...
    def say(self, sentence: str) -> None: ...
    def stop(self) -> None: ...


class ProgressPlugin(SupervisedPlugin[Any], supports_distributed=True):  # type: ignore[call-arg]
    """Passes task, epoch, step and loss on, at most a few times a second: reading a loss waits for the device."""

    transient = ("progress", "_last")

    def __init__(self, progress: Progress, every: float = 0.5) -> None:
        super().__init__()
        self.progress = progress
        self.every = every
        self._last = 0.0

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        clock, steps = strategy.clock, len(strategy.dataloader)
        step = clock.train_epoch_iterations + 1
        now = time.monotonic()
        if step == steps or now - self._last >= self.every:
            self._last = now
            task = strategy.experience.current_experience
            self.progress.epoch(task, clock.train_exp_epochs, float(strategy.loss.detach()), step, steps)
