"""Metrics on matrices small enough to work out by hand."""

from __future__ import annotations

import pytest

from nlpcl.records import metrics

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
