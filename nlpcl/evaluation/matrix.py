"""The T x T matrices of a record, filled through Avalanche's evaluation."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from torch import Tensor

from nlpcl.evaluation.macro_f1 import macro_f1
from nlpcl.training import distributed
from nlpcl.training.finite import not_finite
from nlpcl.training.plugin import Strategy

_Matrix = list[list[float | None]]


class MatrixMetric(PluginMetric[_Matrix]):
    """Accuracy and macro-F1 of every evaluated experience, by the task trained last.

    It raises a UsageError after a test with an output that is NaN.

    :param n_tasks: T.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.accuracy: _Matrix = [[None] * n_tasks for _ in range(n_tasks)]
        self.macro_f1: _Matrix = [[None] * n_tasks for _ in range(n_tasks)]
        self.initial: list[float | None] | None = None
        self.row: int | None = None
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []

    def state(self) -> dict[str, Any]:
        """Return the matrices, as JSON holds them."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "initial": self.initial}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the matrices that `state` returned."""
        self.accuracy, self.macro_f1, self.initial = (state[name] for name in ("accuracy", "macro_f1", "initial"))

    def before_eval_exp(self, strategy: Strategy) -> None:
        self._predictions, self._targets = [], []

    def after_eval_iteration(self, strategy: Strategy) -> None:
        unknown = strategy.mb_output.isnan().any(dim=1)
        self._predictions.append(strategy.mb_output.argmax(dim=1).masked_fill(unknown, -1))
        self._targets.append(strategy.mb_y)

    def after_eval_exp(self, strategy: Strategy) -> None:
        # To the host at once, or on a GPU each figure would wait by itself.
        predictions, targets = (
            distributed.all_gather_ints(parts).cpu() for parts in (self._predictions, self._targets)
        )
        if bool((predictions < 0).any()):
            raise not_finite(strategy, "outputs", "in the test")
        accuracy = float((predictions == targets).double().mean())
        column = strategy.experience.current_experience
        if self.row is None:
            self.initial = self.initial or [None] * len(self.accuracy)
            self.initial[column] = accuracy
        else:
            self.accuracy[self.row][column] = accuracy
            self.macro_f1[self.row][column] = macro_f1(predictions, targets)

    def result(self) -> _Matrix:
        """Return the accuracy on each task (column) after each task (row); None where not evaluated."""
        return self.accuracy

    def reset(self) -> None:
        """Do nothing: the matrices are kept for the whole run."""

    def __str__(self) -> str:
        return "Matrix"
