"""The statistics of comparisons against formulas, plain loops and a published example."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nlpcl.leaderboard.statistics import (
    average_ranks,
    blocks_needed,
    critical_difference,
    friedman,
    holm,
    mean_interval,
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


def test_the_interval_against_its_formula() -> None:
    low, high = mean_interval([0.1, 0.3, 0.2, -0.2]) or (0, 0)
    half = 3.182446 * math.sqrt((0.0**2 + 0.2**2 + 0.1**2 + 0.3**2) / 3) / 2  # t of three degrees of freedom, mean 0.1
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)
    scipys = stats.ttest_1samp([0.1, 0.3, 0.2, -0.2], 0).confidence_interval(0.9)
    assert mean_interval([0.1, 0.3, 0.2, -0.2], 0.9) == pytest.approx((scipys.low, scipys.high))


def test_the_interval_of_a_large_sample_is_the_normal_one() -> None:
    sample = np.random.default_rng(4).normal(0.2, 1, 2000)
    half = 1.96 * sample.std() / math.sqrt(2000)
    assert mean_interval(list(sample)) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.01 * half)


DRAWS = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), math.exp(0.5)),
}


def documented_coverage() -> list[tuple[str, int, float]]:
    """Distribution, number of blocks and percentage of docs/protocol.md."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    head, _, *lines = re.findall(r"^\|(.*)\|$", page.split("interval covers")[1].split("\n\n")[1], flags=re.MULTILINE)
    sizes = [int(cell.split("=")[1]) for cell in head.split("|")[1:]]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [(row[0], n, float(cell)) for row in rows for n, cell in zip(sizes, row[1:], strict=True)]


@pytest.mark.parametrize(("name", "n", "percent"), documented_coverage())
def test_the_interval_covers_at_the_rate_that_the_docs_say(name: str, n: int, percent: float) -> None:
    """Of 10,000 samples; the standard error of the rate is 0.2 to 0.4 points."""
    draw, mean = DRAWS[name]
    rng = np.random.default_rng(5)
    intervals = [mean_interval(draw(rng, n)) or (0, 0) for _ in range(10_000)]
    covered = 100 * np.mean([low <= mean <= high for low, high in intervals])
    assert covered == pytest.approx(percent, abs=1)


def test_the_docs_cover_few_and_many_blocks() -> None:
    found = {(name, n) for name, n, _ in documented_coverage()}
    assert found >= {(name, n) for name in DRAWS for n in (3, 5, 8, 20)}


def test_the_order_of_blocks_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    values = rng.uniform(size=(8, 3))
    shuffled = values[rng.permutation(8)]
    differences, same = values[:, 0] - values[:, 1], shuffled[:, 0] - shuffled[:, 1]
    assert mean_interval(list(differences)) == mean_interval(list(same))
    assert wilcoxon_p(list(differences)) == wilcoxon_p(list(same))
    assert friedman(values) == pytest.approx(friedman(shuffled))
    assert average_ranks(values) == pytest.approx(average_ranks(shuffled))


def test_intervals_of_few_blocks() -> None:
    assert mean_interval([]) is None and mean_interval([0.1]) is None
    assert mean_interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1))
    assert mean_interval([0.3, 0.1 + 0.2]) == pytest.approx((0.3, 0.3))
    assert mean_interval([0.1, 0.3]) == pytest.approx((0.2 - 12.7062 * 0.1, 0.2 + 12.7062 * 0.1), abs=1e-5)
