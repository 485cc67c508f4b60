"""Validation and test data drawn from training data, class by class."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

Size = Annotated[int, Field(strict=True, ge=1, le=10**9)] | Annotated[float, Field(strict=True, gt=0, lt=1)]
"""A number of examples, or a share of them."""
TENTH = 0.1


def count_of(size: Size, rows: int) -> int:
    """Return how many of `rows` examples a size asks for, at least one."""
    return int(size) if size >= 1 else max(1, math.floor(size * rows + 1e-9))


def draw(classes: Sequence[int], size: int, rng: random.Random) -> list[int]:
    """Return the positions of `size` examples, in order, drawn from each class in proportion.

    A class keeps at least one example. What is left over by rounding goes to the classes with the largest remainders.

    :param classes: the class of every example.
    :raises ValueError: the classes do not hold so many examples besides one each.
    """
    rows: dict[int, list[int]] = {}
    for i, label in enumerate(classes):
        rows.setdefault(label, []).append(i)
    if size > spare(classes):
        raise ValueError(f"only {spare(classes)} examples can be drawn")
    labels = sorted(rows)
    rng.shuffle(labels)  # so that among equal remainders chance decides
    shares = {label: size * len(rows[label]) / len(classes) for label in labels}
    taken = {label: min(int(shares[label]), len(rows[label]) - 1) for label in labels}
    while (left := size - sum(taken.values())) > 0:
        open_to_more = [label for label in labels if taken[label] < len(rows[label]) - 1]
        for label in sorted(open_to_more, key=lambda label: taken[label] - shares[label])[:left]:
            taken[label] += 1
    return sorted(i for label in labels for i in rng.sample(rows[label], taken[label]))


def spare(classes: Sequence[int]) -> int:
    """Return how many examples can be drawn such that every class keeps one."""
    return len(classes) - len(set(classes))
