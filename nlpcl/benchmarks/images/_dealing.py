"""Dealing classes out to the tasks of a stream, in one of twenty orders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from nlpcl.benchmarks._images import ImageSet, ImageSource, ImageTask, image_task, split_sizes
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.config.orders import Order
from nlpcl.registry import KnownTask

N_ORDERS = 20


def class_order(n: int, order: Order) -> list[int]:
    """Return the classes 0..n-1 as Avalanche's generators shuffle them with `seed=order`.

    In order 0, and where an order has no number, they stay as they are: names of tasks mean those of the natural order.
    """
    if not isinstance(order, int) or not 0 < order < N_ORDERS:
        return list(range(n))
    shuffled: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(order)).tolist()
    return shuffled


def deal(classes: Sequence[str], size: int, order: Order, first: int = 0) -> dict[str, list[int]]:
    """Return by name of each task its classes. The name is that of its class or two, or the first and how many more.

    :param size: how many classes a task has.
    :param first: how many the first task has; 0 means `size`.
    """
    dealt = class_order(len(classes), order)
    groups = {}
    for start, end in pairwise([0, *range(first or size, len(dealt), size), len(dealt)]):
        names = [classes[k] for k in dealt[start:end]]
        groups["+".join(names) if len(names) <= 2 else f"{names[0]}+{len(names) - 1}"] = dealt[start:end]
    return groups


def known_class_task(source: ImageSource, group: Sequence[int]) -> KnownTask:
    """Return what is known of the task of some of the classes of a data set; None of them if their names are not."""
    labels = source.facts.get("labels")
    train, test = (sum(source.class_sizes[k][i] for k in group) for i in (0, 1))
    return KnownTask(labels and tuple(labels[k] for k in group), split_sizes(train, test))


def class_task(request: StreamRequest[Any], data: ImageSet, name: str, group: Sequence[int]) -> ImageTask:
    """Return the task of some of the classes of a data set."""
    labels = tuple(data.classes[k] for k in group)
    return image_task(request, name, labels, data.train.of_classes(group), data.test.of_classes(group))
