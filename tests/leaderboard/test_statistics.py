"""The statistics of comparisons against formulas, plain loops and a published example."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nlpcl.leaderboard.statistics import (
    average_ranks,
    blocks_needed,
    bootstrap_interval,
    critical_difference,
    friedman,
    holm,
    nemenyi_p,
    smallest_wilcoxon_p,
    wilcoxon_p,
)

# Demšar (2006), table 6: ranks of C4.5 and three variants of it on 14 data sets.
DEMSAR = np.array([
    [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1],
    [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2],
])  # fmt: skip


def exact_wilcoxon(differences: list[float]) -> float:
    """Every sign pattern, counted."""
    ranks = stats.rankdata(np.abs(differences))
    observed = sum(r if d > 0 else -r for r, d in zip(ranks, differences, strict=True))
    sums = [
        sum(r * s for r, s in zip(ranks, signs, strict=True)) for signs in itertools.product((1, -1), repeat=len(ranks))
    ]
    return sum(abs(total) >= abs(observed) - 1e-9 for total in sums) / len(sums)


def test_the_published_example() -> None:
    ranks = average_ranks(DEMSAR, higher_is_better=False)
    assert ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, alpha=0.1) == pytest.approx(1.12, abs=5e-3)
    # The paper's 9.28 is without the correction for ties.
    ties = sum(t**3 - t for row in DEMSAR for t in np.unique(row, return_counts=True)[1])
    statistic, p = friedman(DEMSAR)
    assert statistic * (1 - ties / (14 * 4 * 15)) == pytest.approx(9.28, abs=5e-3)
    assert p == pytest.approx(stats.chi2.sf(statistic, 3))


def test_nemenyi_against_the_published_table_of_q() -> None:
    table = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for k, q in table.items():
        assert critical_difference(k, 10) == pytest.approx(q * math.sqrt(k * (k + 1) / 60), abs=1e-3)


def test_nemenyi_p_falls_below_alpha_at_the_critical_difference() -> None:
    cd = critical_difference(4, 14)
    p = nemenyi_p(np.array([1.5, 1.5 + cd - 1e-3, 1.5 + cd + 1e-3, 1.5]), 14)
    assert p[0, 1] > 0.05 > p[0, 2] and p[0, 3] == pytest.approx(1) and (np.diag(p) == 1).all()
    assert np.allclose(p, p.T)


def test_ranks_against_a_plain_loop() -> None:
    values = np.random.default_rng(1).integers(0, 4, (6, 5)) / 4
    expected = np.zeros(5)
    for row in values:
        for i, x in enumerate(row):
            expected[i] += 1 + sum(y > x for y in row) + (sum(y == x for y in row) - 1) / 2
    assert average_ranks(values) == pytest.approx(expected / 6)
    assert average_ranks(values, higher_is_better=False) == pytest.approx(6 - expected / 6)


def test_friedman_against_its_formula() -> None:
    values = np.random.default_rng(2).normal(size=(7, 4))
    n, k = values.shape
    expected = 12 * n / (k * (k + 1)) * (sum(r**2 for r in average_ranks(values)) - k * (k + 1) ** 2 / 4)
    assert friedman(values)[0] == pytest.approx(expected)
    assert friedman(np.full((3, 3), 0.5)) == (0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.floats(-1, 1).filter(lambda x: abs(x) > 1e-6), min_size=1, max_size=9, unique_by=lambda x: round(abs(x), 6)
    )
)
def test_wilcoxon_against_every_sign_pattern(differences: list[float]) -> None:
    p = wilcoxon_p(differences)
    assert p == pytest.approx(exact_wilcoxon(differences))
    assert p >= smallest_wilcoxon_p(len(differences)) - 1e-12
    assert wilcoxon_p([-d for d in differences]) == pytest.approx(p)


def test_wilcoxon_with_ties_and_without_differences() -> None:
    assert wilcoxon_p([0.1, 0.1, -0.1, 0.3]) == pytest.approx(exact_wilcoxon([0.1, 0.1, -0.1, 0.3]))
    assert wilcoxon_p([0.0, 0.1, 0.2]) == wilcoxon_p([0.1, 0.2]) == 0.5
    # Noise of sums is no difference.
    assert wilcoxon_p([0.0, 0.1 + 0.2 - 0.3]) == 1.0


def test_how_many_blocks_are_needed() -> None:
    assert wilcoxon_p([1, 2, 3, 4, 5]) == smallest_wilcoxon_p(5) == 0.0625
    for comparisons in (1, 3, 6, 10):
        n = blocks_needed(0.05, comparisons)
        assert comparisons * smallest_wilcoxon_p(n) <= 0.05 < comparisons * smallest_wilcoxon_p(n - 1)
    assert blocks_needed(0.05) == 6 and smallest_wilcoxon_p(0) == smallest_wilcoxon_p(1) == 1


def test_holm() -> None:
    # Smallest times 3, next times 2, never less than the one before it.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    statsmodels = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(3).uniform(0, 0.2, 12)
    assert holm(list(p)) == pytest.approx(statsmodels.multipletests(p, method="holm")[1])


def test_bootstrap_interval_of_a_large_sample_is_the_normal_one() -> None:
    sample = np.random.default_rng(4).normal(0.2, 1, 2000)
    interval = bootstrap_interval(list(sample))
    assert interval is not None
    half = 1.96 * sample.std() / math.sqrt(2000)
    assert interval == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.1 * half)


def test_bootstrap_interval_covers_at_its_rate() -> None:
    """Of 200 samples of 20 with mean 0, about 95 % of intervals hold 0; BCa falls a little short at this size."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        interval = bootstrap_interval(list(rng.normal(size=20)))
        assert interval is not None
        held += interval[0] <= 0 <= interval[1]
    assert 175 <= held <= 198


def test_the_order_of_blocks_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    values = rng.uniform(size=(8, 3))
    shuffled = values[rng.permutation(8)]
    differences, same = values[:, 0] - values[:, 1], shuffled[:, 0] - shuffled[:, 1]
    assert bootstrap_interval(list(differences)) == bootstrap_interval(list(same))
    assert wilcoxon_p(list(differences)) == wilcoxon_p(list(same))
    assert friedman(values) == pytest.approx(friedman(shuffled))
    assert average_ranks(values) == pytest.approx(average_ranks(shuffled))


def test_intervals_of_few_blocks() -> None:
    assert bootstrap_interval([]) is None and bootstrap_interval([0.1]) is None
    assert bootstrap_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert bootstrap_interval([0.3, 0.1 + 0.2]) == (0.3, 0.3)
    interval = bootstrap_interval([0.1, 0.3])
    assert interval is not None and 0.1 <= interval[0] < interval[1] <= 0.3
