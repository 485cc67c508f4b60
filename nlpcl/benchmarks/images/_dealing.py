"""Dealing classes out to the tasks of a stream, in one of twenty orders."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nlpcl.config.orders import Order

N_ORDERS = 20


def class_order(n: int, order: Order) -> list[int]:
    """Return the classes 0..n-1 as Avalanche's generators shuffle them with `seed=order`.

    In order 0, and where an order has no number, they stay as they are: names of tasks mean those of the natural order.
    """
    if not isinstance(order, int) or not 0 < order < N_ORDERS:
        return list(range(n))
    shuffled: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(order)).tolist()
    return shuffled


def group_name(classes: Sequence[str]) -> str:
    """Return the name of a task: its class or two, or the first and how many more."""
    return "+".join(classes) if len(classes) <= 2 else f"{classes[0]}+{len(classes) - 1}"
