"""`fit`: the loop over the experiences of a benchmark, and who is told of it."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

from avalanche.benchmarks import CLScenario
from avalanche.core import SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate

from nlpcl.evaluation import MatrixMetric
from nlpcl.runs.progress import RunProgress
from nlpcl.training.finite import not_finite
from nlpcl.training.plugin import Strategy
from nlpcl.training.strategy import protocol_of

Eval = Literal["seen", "full", "final"]


class ProgressPlugin(SupervisedPlugin[Strategy], supports_distributed=True):
    """Passes task, epoch, step and loss on, at most a few times a second: reading a loss waits for the device."""

    state = ()

    def __init__(self, progress: RunProgress) -> None:
        super().__init__()
        self.progress = progress
        self._last = 0.0

    def after_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        clock, steps = strategy.clock, len(strategy.dataloader)
        step = clock.train_epoch_iterations + 1
        now = time.monotonic()
        if step == steps or now - self._last >= 0.5:
            self._last = now
            loss = float(strategy.loss.detach())
            if not math.isfinite(loss) and not hasattr(strategy, "check_losses"):  # Avalanche's own check no loss
                raise not_finite(strategy, "loss", f"in step {clock.train_exp_iterations + 1}")
            self.progress.epoch(strategy.experience.current_experience, clock.train_exp_epochs, loss, step, steps)


class Observer:
    """Is told how a training goes; by itself it does nothing."""

    def end_task(self, rows: int) -> None:
        """After the task was trained with which `rows` are trained."""

    def tested(self, row: int) -> None:
        """After a test, with its row of the matrix; -1 is before the first task."""

    def between(self, rows: int) -> None:
        """After a task was trained and tested; `rows` are done."""


def fit(
    strategy: SupervisedTemplate[Any, Any, Any],
    benchmark: CLScenario[Any],
    *,
    eval: Eval = "seen",
    stream: Literal["test", "valid"] = "test",
    epochs: list[int] | None = None,
    matrix: MatrixMetric | None = None,
    start: int = 0,
    observer: Observer | None = None,
) -> MatrixMetric:
    """Train a strategy on a benchmark, the way the strategy is meant to be driven, and test it.

    A continual strategy sees one experience after another; ONE starts afresh for each and is tested on
    that one alone; MTL sees the whole stream at once and is tested at the end.

    :param strategy: one of ours or Avalanche's.
    :param benchmark: with a train and a test stream of T experiences.
    :param eval: test after each experience on those `seen`, on all (`full`, also before the first), or
        only at the end (`final`).
    :param stream: evaluate on the `test` stream or, to choose settings, on `valid`.
    :param epochs: epochs of each experience; None means the strategy's own.
    :param matrix: takes the scores; None means a new one.
    :param start: number of tasks that are done.
    :param observer: is told how it goes; None means that nobody is.
    :return: the T x T matrices.
    """
    streams: Any = benchmark  # Avalanche sets them as attributes of its object
    train, test = streams.train_stream, getattr(streams, f"{stream}_stream")
    n_tasks = len(train)
    matrix = matrix or MatrixMetric(n_tasks)
    observer = observer or Observer()
    protocol = protocol_of(strategy)

    def test_on(row: int, columns: list[int]) -> None:
        matrix.row = None if row < 0 else row
        strategy.eval([test[column] for column in columns])
        observer.tested(row)

    strategy.evaluator.metrics.append(matrix)
    try:
        if eval == "full" and protocol == "continual" and matrix.initial is None:
            test_on(-1, list(range(n_tasks)))
        if protocol == "joint":
            strategy.train_epochs = max(epochs) if epochs else strategy.train_epochs
            strategy.train(list(train), eval_streams=[])
            observer.end_task(n_tasks)
            test_on(n_tasks - 1, list(range(n_tasks)))
            return matrix
        for row in range(start, n_tasks):
            strategy.train_epochs = epochs[row] if epochs else strategy.train_epochs
            strategy.train(train[row], eval_streams=[])
            observer.end_task(row + 1)
            if protocol == "isolated":
                test_on(row, [row])
            elif eval != "final" or row == n_tasks - 1:
                test_on(row, list(range(row + 1 if eval == "seen" else n_tasks)))
            observer.between(row + 1)
        return matrix
    finally:
        strategy.evaluator.metrics.remove(matrix)  # or a later evaluation would change this result
