"""Training that looks at validation data, as a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Plateau:
    """After `patience` epochs without a lower loss divide the rate by `factor`; below `least` training is over."""

    patience: int
    factor: float
    least: float

    @property
    def settings(self) -> dict[str, float | str]:
        """The engine's arguments for it."""
        return {
            "schedule": "plateau",
            "patience": self.patience,
            "plateau_factor": self.factor,
            "min_learning_rate": self.least,
        }


def train_with_validation(
    step: Callable[[float], None],
    validate: Callable[[], float],
    parameters: Sequence[nn.Parameter],
    *,
    epochs: int,
    learning_rate: float,
    plateau: Plateau | None = None,
) -> tuple[int, list[float]]:
    """Train, put back the parameters of the epoch with the lowest loss, and return its number and all epochs' rates.

    :param step: trains for an epoch at a rate.
    :param validate: the loss on validation data.
    """
    rate, lowest, stalled, best = learning_rate, float("inf"), 0, 0
    rates, kept = [], [p.detach().clone() for p in parameters]
    for epoch in range(1, epochs + 1):
        step(rate)
        rates.append(rate)
        loss = validate()
        if loss < lowest:
            lowest, stalled, best = loss, 0, epoch
            kept = [p.detach().clone() for p in parameters]
            continue
        stalled += 1
        if plateau is not None and stalled == plateau.patience:
            rate, stalled = rate / plateau.factor, 0
            if rate < plateau.least:
                break
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
    return best, rates
