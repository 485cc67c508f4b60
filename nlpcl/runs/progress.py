"""What a run tells while it runs."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

from avalanche.core import SupervisedPlugin

from nlpcl.training.finite import not_finite
from nlpcl.training.protocols import Strategy


class Progress(Protocol):
    """What `run` tells while it runs; `nlpcl.cli.display.ProgressReporter` shows it."""

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


class ProgressPlugin(SupervisedPlugin[Strategy], supports_distributed=True):
    """Passes task, epoch, step and loss on, at most a few times a second: reading a loss waits for the device."""

    state = ()

    def __init__(self, progress: Progress, every: float = 0.5) -> None:
        super().__init__()
        self.progress = progress
        self.every = every
        self._last = 0.0

    def after_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        clock, steps = strategy.clock, len(strategy.dataloader)
        step = clock.train_epoch_iterations + 1
        now = time.monotonic()
        if step == steps or now - self._last >= self.every:
            self._last = now
            loss = float(strategy.loss.detach())
            if not math.isfinite(loss) and not hasattr(strategy, "check_losses"):  # Avalanche's own check no loss
                raise not_finite(strategy, "loss", f"in step {clock.train_exp_iterations + 1}")
            self.progress.epoch(strategy.experience.current_experience, clock.train_exp_epochs, loss, step, steps)
