"""Metrics of continual learning as functions of a T x T matrix.

`matrix[i][j]` is the score on task j after training task i, in [0, 1]; None means that it was not measured. A function
returns None if a score that it needs was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Matrix = Sequence[Sequence[float | None]]


def _array(matrix: Matrix) -> np.ndarray:
    return np.array([[np.nan if cell is None else cell for cell in row] for row in matrix], dtype=float)


def _value(x: float) -> float | None:
    return None if np.isnan(x) else float(x)


def final_scores(matrix: Matrix) -> list[float | None]:
    """Return the last score measured on each task: the last row, or for ONE the diagonal."""
    columns = _array(matrix).T
    return [next((float(cell) for cell in column[::-1] if not np.isnan(cell)), None) for column in columns]


def average(matrix: Matrix) -> float | None:
    """Return 1/T sum_j a[T-1, j], the headline figure; for ONE the mean of the diagonal."""
    scores = final_scores(matrix)
    return None if None in scores else float(np.mean(np.array(scores, dtype=float)))


def learning_accuracy(matrix: Matrix) -> float | None:
    """Return 1/T sum_i a[i, i], right after learning; PyContinual calls it forward."""
    return _value(float(np.mean(np.diag(_array(matrix)))))


def bwt(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T-1} a[T-1, j] - a[j, j] (Lopez-Paz and Ranzato, NeurIPS 2017)."""
    a = _array(matrix)
    return None if len(a) < 2 else _value(float(np.mean((a[-1] - np.diag(a))[:-1])))


def forgetting_rate(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T-1} a[j, j] - a[T-1, j], the negative of `bwt` (PyContinual's FR)."""
    value = bwt(matrix)
    return None if value is None else -value


def forgetting_by_task(matrix: Matrix) -> list[float | None]:
    """Return max_{j<=i<T-1} a[i, j] - a[T-1, j] for every task j but the last.

    Rows before a task's own, which only `--eval full` fills, do not count: what was not yet learnt is not forgotten.
    """
    a = _array(matrix)
    return [_value(float(np.max(a[j:-1, j]) - a[-1, j])) for j in range(len(a) - 1)]


def forgetting(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T-1} max_{j<=i<T-1} a[i, j] - a[T-1, j] (Chaudhry et al., ECCV 2018)."""
    lost = forgetting_by_task(matrix)
    return _value(float(np.mean(_array([lost])))) if lost else None


def average_over_time(matrix: Matrix) -> list[float | None]:
    """Return 1/(i+1) sum_{j<=i} a[i, j] for each task i, the mean over the tasks learnt so far."""
    a = _array(matrix)
    return [_value(float(np.mean(a[i, : i + 1]))) for i in range(len(a))]


def fwt_gem(matrix: Matrix, initial: Sequence[float | None] | None) -> float | None:
    """Return 1/(T-1) sum_{j>0} a[j-1, j] - initial[j] (Lopez-Paz and Ranzato, NeurIPS 2017); needs `--eval full`."""
    if initial is None or len(matrix) < 2:
        return None
    return _value(float(np.mean(np.diag(_array(matrix), 1) - _array([initial])[0][1:])))


def transfer_vs_one(matrix: Matrix, one: Matrix) -> float | None:
    """Return 1/T sum_i a[i, i] - one[i, i], what a task gains over being learnt alone."""
    return _value(float(np.mean(np.diag(_array(matrix)) - np.diag(_array(one)))))


def macro_f1_bounds(correct: int, examples: int, classes: int) -> tuple[float, float]:
    """Return bounds of macro-F1, the mean of 2 TP_c / (2 TP_c + FN_c + FP_c) over the classes that occur.

    With k correct answers and r = n - k errors the sum of FN_c + FP_c is 2 r, and at most r in each class. The mean is
    largest if all errors are between two classes with equally many correct answers and m - 2 further classes are
    faultless, which gives 1 - 2 r / (m (n + 2 - m)). It is smallest if all correct answers are of one class, which
    takes part in x errors: 2 k / (2 k + x), over that class and the at most 2 r - x others.

    >>> macro_f1_bounds(10, 10, 3)
    (1.0, 1.0)
    >>> low, high = macro_f1_bounds(90, 100, 2)
    >>> round(low, 4), round(high, 4)
    (0.4737, 0.9)

    :param correct: k, from 0 to n.
    :param examples: n, at least 1.
    :param classes: C, the most classes that can occur among targets and predictions.
    :return: lowest and highest value; some values between them no prediction gives.
    """
    k, n, errors = correct, examples, examples - correct
    if k == 0 or errors == 0 or classes < 2:
        return (0.0, 0.0) if k == 0 else (1.0, 1.0)
    m = max(2.0, min(classes, k + 2, (n + 2) / 2))
    x = min(max((1 + 2 * errors - 2 * k) / 2, 2 * errors - classes + 1, 0), errors)
    return 2 * k / ((2 * k + x) * (1 + min(classes - 1, 2 * errors - x))), 1 - 2 * errors / (m * (n + 2 - m))


def derive(
    accuracy: Matrix, macro_f1: Matrix, initial: Sequence[float | None] | None = None
) -> dict[str, float | None]:
    """Return all metrics that the matrices of one record allow, by name."""
    return {
        "average_accuracy": average(accuracy),
        "learning_accuracy": learning_accuracy(accuracy),
        "bwt": bwt(accuracy),
        "forgetting": forgetting(accuracy),
        "macro_f1": average(macro_f1),
        "fwt_gem": fwt_gem(accuracy, initial),
    }
