"""Statistical tests for paired results, as Demšar recommends them.

Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006.
Methods are compared on blocks: here a block is one task order and one seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_DIGITS = 9  # a sum of rounded scores depends on their order by less than this


def mean_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of the mean, m -+ t_{n-1} s / sqrt(n).

    A bootstrap of few values is too narrow: docs/protocol.md has the coverage of both.

    :param differences: a difference for each block, in any order.
    :return: lower and upper end; None means fewer than two blocks.
    """
    ordered = np.sort(np.round(np.asarray(differences, dtype=float), _DIGITS))  # the sum depends on the order
    n = len(ordered)
    if n < 2:
        return None
    mean = float(ordered.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * ordered.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; 1 if no block differs.

    Blocks without a difference are dropped.
    """
    rounded = np.round(np.asarray(differences, dtype=float), _DIGITS)
    return float(stats.wilcoxon(rounded).pvalue) if rounded.any() else 1.0


def direction(differences: Sequence[float]) -> int:
    """Return the sign of the mean if the signed ranks agree with it, else 0.

    They disagree when a few large differences outweigh many small ones.
    """
    rounded = np.round(np.asarray(differences, dtype=float), _DIGITS)
    ranked = float(np.sign(rounded) @ stats.rankdata(np.abs(rounded)))
    return int(np.sign(ranked)) if ranked * rounded.mean() > 0 else 0


def smallest_wilcoxon_p(blocks: int) -> float:
    """Return the smallest p of `wilcoxon_p`: all differences have one sign, one of 2^blocks equally likely outcomes."""
    return min(1.0, 2.0 ** (1 - blocks))


def blocks_needed(alpha: float, comparisons: int = 1) -> int:
    """Return the fewest blocks with which Wilcoxon's test, corrected for `comparisons`, can reach `alpha`."""
    return math.ceil(math.log2(2 * comparisons / alpha))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, 1979): max over j <= i of (m - j) p_(j), j from 0, at most 1."""
    order = np.argsort(p, kind="stable")
    ascending = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.asarray(p)[order])
    return [float(value) for value in np.minimum(1, ascending)[np.argsort(order)]]


def average_ranks(values: np.ndarray, higher_is_better: bool = True) -> np.ndarray:
    """Return the mean rank of each method over blocks; 1 is best, equal values share their ranks' mean.

    :param values: (blocks, methods).
    :return: (methods,), in [1, methods].
    """
    oriented = -values if higher_is_better else values
    return np.asarray(stats.rankdata(np.round(oriented, _DIGITS), axis=1).mean(axis=0))


def friedman(values: np.ndarray) -> tuple[float, float]:
    """Return Friedman's statistic, corrected for ties, and its p by the chi-squared distribution.

    :param values: (blocks, methods), at least 3 methods.
    :return: statistic and p; 0 and 1 if all methods are equal in every block.
    """
    rounded = np.round(values, _DIGITS)
    if (rounded == rounded[:, :1]).all():
        return 0.0, 1.0
    test = stats.friedmanchisquare(*rounded.T)
    return float(test.statistic), float(test.pvalue)


def _rank_error(methods: int, blocks: int) -> float:
    return math.sqrt(methods * (methods + 1) / (6 * blocks))


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference, q_alpha sqrt(k (k + 1) / (6 N)).

    q_alpha is the quantile of the studentized range with infinite degrees of freedom, over sqrt 2.
    """
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * _rank_error(methods, blocks)


def nemenyi_p(ranks: np.ndarray, blocks: int) -> np.ndarray:
    """Return the two-sided p of each pair of average ranks: below alpha if they differ by a critical difference.

    :param ranks: average ranks, (methods,).
    :return: (methods, methods), symmetric, 1 on the diagonal.
    """
    apart = np.abs(ranks[:, None] - ranks[None, :]) / _rank_error(len(ranks), blocks)
    p = np.asarray(stats.studentized_range.sf(apart * math.sqrt(2), len(ranks), np.inf))
    np.fill_diagonal(p, 1.0)
    at_most_one: np.ndarray = np.minimum(p, 1.0)
    return at_most_one
