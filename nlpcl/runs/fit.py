"""`fit`: the loop over the experiences of a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from avalanche.benchmarks import CLScenario
from avalanche.training.templates import SupervisedTemplate

from nlpcl.evaluation import MatrixMetric
from nlpcl.runs.checkpoint import CheckpointManager
from nlpcl.training.strategy import protocol_of

Eval = Literal["seen", "full", "final"]


def fit(
    strategy: SupervisedTemplate[Any, Any, Any],
    benchmark: CLScenario[Any],
    *,
    eval: Eval = "seen",
    stream: Literal["test", "valid"] = "test",
    epochs: list[int] | None = None,
    trained: Callable[[int], None] | None = None,
    after: Callable[[int, MatrixMetric], None] | None = None,
    matrix: MatrixMetric | None = None,
    start: int = 0,
    keeper: CheckpointManager | None = None,
) -> MatrixMetric:
    """Train a strategy on a benchmark, the way the strategy is meant to be driven, and test it.

    A continual strategy sees one experience after another; ONE starts afresh for each and is tested on
    that one alone; MTL sees the whole stream at once and is tested at the end.

    :param strategy: one of ours or Avalanche's.
    :param benchmark: with a train and a test stream of T experiences.
    :param eval: test after each experience on those `seen`, on all (`full`, also before the first), or
        only at the end (`final`).
    :param stream: evaluate on the `test` stream or, to choose settings, on `valid`.
    :param epochs: epochs of each experience; None: the strategy's own.
    :param trained: called with the number of tasks trained so far, each time it has grown.
    :param after: called with row and matrices after each evaluation; row -1 is the one before the first task.
    :param matrix: takes the scores as they come; None: a new one.
    :param start: number of tasks that are done.
    :param keeper: saves checkpoints.
    :return: the T x T matrices.
    """
    train, test = benchmark.train_stream, getattr(benchmark, f"{stream}_stream")  # type: ignore[attr-defined]
    n_tasks = len(train)
    matrix = matrix or MatrixMetric(n_tasks)
    protocol = protocol_of(strategy)

    def train_on(experiences: Any, row: int) -> None:
        if keeper is not None:
            keeper.begin_task()
        strategy.train(experiences, eval_streams=[])
        if trained is not None:
            trained(row + 1)

    def test_on(row: int, columns: list[int]) -> None:
        matrix.row = row
        strategy.eval([test[column] for column in columns])
        if after is not None:
            after(row, matrix)

    strategy.evaluator.metrics.append(matrix)
    try:
        if eval == "full" and protocol == "continual" and matrix.initial is None:
            strategy.eval(list(test))
            if after is not None:
                after(-1, matrix)
        if protocol == "joint":
            strategy.train_epochs = max(epochs) if epochs else strategy.train_epochs
            train_on(list(train), n_tasks - 1)
            test_on(n_tasks - 1, list(range(n_tasks)))
            return matrix
        for row in range(start, n_tasks):
            strategy.train_epochs = epochs[row] if epochs else strategy.train_epochs
            train_on(train[row], row)
            if protocol == "isolated":
                test_on(row, [row])
            elif eval != "final" or row == n_tasks - 1:
                test_on(row, list(range(row + 1 if eval == "seen" else n_tasks)))
            if keeper is not None:
                keeper.between(row + 1)
        return matrix
    finally:
        strategy.evaluator.metrics.remove(matrix)  # or a later evaluation would change this result
