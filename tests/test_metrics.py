"""Metrics on matrices small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nlpcl.evaluation import macro_f1
from nlpcl.records import metrics
from nlpcl.records.metrics import macro_f1_bounds

M = [[0.9, None, None], [0.8, 0.7, None], [0.85, 0.6, 0.5]]
DIAGONAL = [[0.9, None, None], [None, 0.8, None], [None, None, 0.4]]
JOINT = [[None] * 3, [None] * 3, [0.9, 0.8, 0.7]]


def test_lower_triangle() -> None:
    assert metrics.average(M) == pytest.approx((0.85 + 0.6 + 0.5) / 3)
    assert metrics.learning_accuracy(M) == pytest.approx(0.7)
    assert metrics.bwt(M) == pytest.approx(((0.85 - 0.9) + (0.6 - 0.7)) / 2)
    assert metrics.forgetting_rate(M) == pytest.approx((0.05 + 0.1) / 2)
    assert metrics.forgetting(M) == pytest.approx((0.05 + 0.1) / 2)
    assert metrics.fwt_gem(M, [0.5, 0.5, 0.5]) is None
    assert metrics.transfer_vs_one(M, DIAGONAL) == pytest.approx((0 - 0.1 + 0.1) / 3)


def test_forgetting_uses_the_running_maximum() -> None:
    m = [[0.5, None, None], [0.9, 0.7, None], [0.6, 0.7, 0.5]]
    assert metrics.forgetting(m) == pytest.approx((0.3 + 0.0) / 2)
    assert metrics.bwt(m) == pytest.approx((0.1 + 0.0) / 2)


def test_forward_transfer_needs_the_upper_triangle() -> None:
    full = [[0.9, 0.6, 0.5], [0.8, 0.7, 0.4], [0.85, 0.6, 0.5]]
    assert metrics.fwt_gem(full, [0.5, 0.5, 0.3]) == pytest.approx(((0.6 - 0.5) + (0.4 - 0.3)) / 2)
    assert metrics.fwt_gem(full, None) is None


def test_isolated_and_joint_training() -> None:
    assert metrics.average(DIAGONAL) == pytest.approx(0.7)
    assert metrics.forgetting(DIAGONAL) is None
    assert metrics.average(JOINT) == pytest.approx(0.8)
    assert metrics.learning_accuracy(JOINT) is None
    assert metrics.average([[None]]) is None
    assert metrics.forgetting_rate(JOINT) is None
    assert metrics.bwt([[0.5]]) is None and metrics.forgetting([[0.5]]) is None


def test_forgetting_of_each_task_averages_to_forgetting() -> None:
    m = [[0.5, None, None], [0.9, 0.7, None], [0.6, 0.65, 0.5]]
    lost = metrics.forgetting_by_task(m)
    assert lost == pytest.approx([0.9 - 0.6, 0.7 - 0.65])
    assert metrics.forgetting(m) == pytest.approx(sum(x for x in lost if x is not None) / 2)
    assert metrics.forgetting_by_task(DIAGONAL) == [None, None] and metrics.forgetting_by_task([[0.5]]) == []


def test_average_over_time_counts_the_tasks_learnt_so_far() -> None:
    full = [[0.9, 0.6, 0.5], [0.8, 0.7, 0.4], [0.85, 0.6, 0.5]]
    for m in (M, full):
        assert metrics.average_over_time(m) == pytest.approx([0.9, (0.8 + 0.7) / 2, (0.85 + 0.6 + 0.5) / 3])
    assert metrics.average_over_time(DIAGONAL) == [0.9, None, None]


@pytest.mark.parametrize(("classes", "most"), [(2, 8), (3, 5)])
def test_macro_f1_bounds_against_all_confusion_matrices(classes: int, most: int) -> None:
    for n in range(1, most + 1):
        values: dict[int, set[float]] = {}
        for cells in confusions(n, classes * classes):
            correct = sum(cells[c * classes + c] for c in range(classes))
            values.setdefault(correct, set()).add(macro_f1_of(cells, classes))
        for correct, found in values.items():
            low, high = macro_f1_bounds(correct, n, classes)
            assert low <= min(found) + 1e-12 and max(found) <= high + 1e-12
            if classes == 2:  # the lowest is always reached, the highest where the correct answers can be halved
                assert low == pytest.approx(min(found)) and (correct % 2 or high == pytest.approx(max(found)))


@given(st.integers(1, 300), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_macro_f1_bounds_against_random_predictions(n: int, classes: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.choice(classes, n, p=rng.dirichlet([0.3] * classes))
    predictions = np.where(rng.random(n) < share, targets, rng.choice(classes, n, p=rng.dirichlet([0.3] * classes)))
    value = macro_f1(torch.from_numpy(predictions), torch.from_numpy(targets))
    low, high = macro_f1_bounds(int((predictions == targets).sum()), n, classes)
    assert low - 1e-6 <= value <= high + 1e-6


def confusions(n: int, cells: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to put n examples into the cells of a confusion matrix."""
    if cells == 1:
        yield (n,)
        return
    for first in range(n + 1):
        yield from ((first, *rest) for rest in confusions(n - first, cells - 1))


def macro_f1_of(cells: tuple[int, ...], classes: int) -> float:
    table = np.array(cells).reshape(classes, classes)
    occurring = table.sum(axis=0) + table.sum(axis=1)
    return float(np.mean(2 * np.diag(table)[occurring > 0] / occurring[occurring > 0]))
