"""Tests for paired results, as Demšar recommends them (Statistical Comparisons of Classifiers, JMLR 7, 2006).

A block is what two methods are compared on: here one task order and one seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_DIGITS = 9  # values that differ by less are equal: sums of rounded scores in another order


def mean_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of the mean, m -+ t_{n-1} s / sqrt(n).

    A bootstrap of few values knows no more than these and is too narrow: docs/protocol.md has the coverage of both.

    :param differences: one of each block, in any order.
    :return: lower and upper end; None for fewer than two blocks.
    """
    ordered = np.sort(np.round(np.asarray(differences, dtype=float), _DIGITS))  # the sum depends on the order
    n = len(ordered)
    if n < 2:
        return None
    mean = float(ordered.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * ordered.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where no block differs. Blocks without a difference drop out."""
    rounded = np.round(np.asarray(differences, dtype=float), _DIGITS)
    return float(stats.wilcoxon(rounded).pvalue) if rounded.any() else 1.0


def direction(differences: Sequence[float]) -> int:
    """Sign of the mean if the signed ranks agree with it, else 0: a few large differences may outweigh many small."""
    rounded = np.round(np.asarray(differences, dtype=float), _DIGITS)
    ranked = float(np.sign(rounded) @ stats.rankdata(np.abs(rounded)))
    return int(np.sign(ranked)) if ranked * rounded.mean() > 0 else 0


def smallest_wilcoxon_p(blocks: int) -> float:
    """What `wilcoxon_p` gives at best: all of `blocks` differences have one sign, of 2^blocks equally likely ones."""
    return min(1.0, 2.0 ** (1 - blocks))


def blocks_needed(alpha: float, comparisons: int = 1) -> int:
    """Fewest blocks with which Wilcoxon's test, corrected for so many comparisons, can reach `alpha`."""
    return math.ceil(math.log2(2 * comparisons / alpha))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979): max over j <= i of (m - j) p_(j), j from 0, at most 1."""
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def average_ranks(values: np.ndarray, higher_is_better: bool = True) -> np.ndarray:
    """Mean rank of each method over blocks; 1 is best, equal values share their ranks' mean.

    :param values: (blocks, methods).
    :return: (methods,), in [1, methods].
    """
    oriented = -values if higher_is_better else values
    return np.asarray(stats.rankdata(np.round(oriented, _DIGITS), axis=1).mean(axis=0))


def friedman(values: np.ndarray) -> tuple[float, float]:
    """Friedman's statistic, corrected for ties, and its p by the chi-squared distribution.

    :param values: (blocks, methods), at least 3 methods.
    :return: statistic and p; 0 and 1 where all methods are equal in every block.
    """
    rounded = np.round(values, _DIGITS)
    if (rounded == rounded[:, :1]).all():
        return 0.0, 1.0
    found = stats.friedmanchisquare(*rounded.T)
    return float(found.statistic), float(found.pvalue)


def _rank_error(methods: int, blocks: int) -> float:
    return math.sqrt(methods * (methods + 1) / (6 * blocks))


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's: q_alpha sqrt(k (k + 1) / (6 N)), q of the studentized range with infinite degrees, over sqrt 2."""
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * _rank_error(methods, blocks)


def nemenyi_p(ranks: np.ndarray, blocks: int) -> np.ndarray:
    """Two-sided p of each pair of average ranks; below alpha exactly where they differ by a critical difference.

    :param ranks: (methods,).
    :return: (methods, methods), symmetric, 1 on the diagonal.
    """
    apart = np.abs(ranks[:, None] - ranks[None, :]) / _rank_error(len(ranks), blocks)
    p = np.asarray(stats.studentized_range.sf(apart * math.sqrt(2), len(ranks), np.inf))
    np.fill_diagonal(p, 1.0)
    return np.minimum(p, 1.0)
