"""The T x T matrices of a record, filled through Avalanche's evaluation."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric
from torch import Tensor

from nlpcl.evaluation.macro_f1 import macro_f1
from nlpcl.training import distributed
from nlpcl.training.finite import not_finite

Matrix = list[list[float | None]]


class MatrixMetric(PluginMetric[Matrix]):
    """Accuracy and macro-F1 of every evaluated experience, by what had been trained before.

    After a test some of whose outputs are NaN it raises a UsageError.

    :param n_tasks: T.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.accuracy: Matrix = [[None] * n_tasks for _ in range(n_tasks)]
        self.macro_f1: Matrix = [[None] * n_tasks for _ in range(n_tasks)]
        self.initial: list[float | None] | None = None
        self.row: int | None = None
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []

    def state(self) -> dict[str, Any]:
        """The matrices, as JSON holds them."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "initial": self.initial}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.accuracy, self.macro_f1, self.initial = (state[name] for name in ("accuracy", "macro_f1", "initial"))

    def before_eval_exp(self, strategy: Any) -> None:
        self._predictions, self._targets = [], []

    def after_eval_iteration(self, strategy: Any) -> None:
        unknown = strategy.mb_output.isnan().any(dim=1)
        self._predictions.append(strategy.mb_output.argmax(dim=1).masked_fill(unknown, -1))
        self._targets.append(strategy.mb_y)

    def after_eval_exp(self, strategy: Any) -> None:
        # To the host at once: on a GPU each figure made from them would be a wait of its own.
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

    def result(self) -> Matrix:
        """The accuracy matrix; row = after which task, None where not evaluated."""
        return self.accuracy

    def reset(self) -> None:
        """Nothing: the matrices are kept for the whole run."""

    def __str__(self) -> str:
        return "Matrix"
