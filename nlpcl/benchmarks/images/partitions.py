"""The original toolkit's partitions: a data set cut into ten or twenty parts that all have all classes.

`mnist`, `fashionmnist`, `cifar10` and `cifar100` are cut so that every class is spread evenly (stratified), training
and test set each for itself. `cifar10hetero` pools both, gives every part its own class proportions, drawn from a
Dirichlet distribution with concentration 0.5, keeps parts from growing beyond N / T, and splits each part 80/20
into training and test data. A tenth of a part's training data is for validation.

The original drew its parts from the global seed and kept them on the disk, so its very parts cannot be had again;
these are drawn with private generators and are the same everywhere. More than ten tasks means the cut into twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlpcl.benchmarks._files.published import numbered_orders, numbered_orders_of
from nlpcl.benchmarks._images import Images, ImageSet, ImageSource, ImageTask, image_stream, image_task, split_sizes
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks.images._cifar import CIFAR10, CIFAR100
from nlpcl.benchmarks.images._mnist import FASHION, MNIST
from nlpcl.config.orders import Order
from nlpcl.errors import UsageError
from nlpcl.options import Options
from nlpcl.registry import Known, KnownTask

_CONCENTRATION = 0.5
_SMALLEST = 10
_REASON = "its parts have the same classes and no theme of their own that a task label could name"
_Pairs = list[tuple[Images, Images]]


def stratified(targets: Sequence[int], parts: int) -> list[list[int]]:
    """Return the positions of every part; a class is spread evenly, and each position is in one part.

    Where a class does not divide by the number of parts, the parts with one more differ from class to class.
    """
    rng = np.random.default_rng(0)
    labels = np.asarray(targets)
    rows = [row for label in np.unique(labels) for row in rng.permutation(np.flatnonzero(labels == label)).tolist()]
    return [sorted(rows[part::parts]) for part in range(parts)]


def dirichlet(targets: Sequence[int], parts: int, concentration: float = _CONCENTRATION) -> list[list[int]]:
    """Return the positions of every part; each class is spread by proportions from a symmetric Dirichlet distribution.

    A part that has reached N / T takes nothing of the classes that follow. Drawn anew until no part is tiny.

    :raises UsageError: there are too few images for so many parts.
    """
    rng = np.random.default_rng(0)
    labels = np.asarray(targets)
    if len(labels) < 4 * _SMALLEST * parts:
        raise UsageError(f"{len(labels)} images are too few for {parts} parts of uneven classes: use fewer tasks.")
    while True:
        dealt: list[list[int]] = [[] for _ in range(parts)]
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            room = np.array([len(part) < len(labels) / parts for part in dealt])
            share = rng.dirichlet([concentration] * parts) * room
            ends = (np.cumsum(share / share.sum())[:-1] * len(rows)).astype(int)
            for part, more in zip(dealt, np.split(rows, ends), strict=True):
                part.extend(more.tolist())
        if min(len(part) for part in dealt) >= _SMALLEST:
            return [sorted(part) for part in dealt]


def even_parts(data: ImageSet, parts: int) -> _Pairs:
    """Return training and test images of every part, both stratified."""
    train, test = (stratified(images.targets, parts) for images in (data.train, data.test))
    return [(data.train.take(a), data.test.take(b)) for a, b in zip(train, test, strict=True)]


def uneven_parts(data: ImageSet, parts: int) -> _Pairs:
    """Return training and test images of every part, with class proportions of its own."""
    pools = [images.pool for images in (data.train, data.test) if isinstance(images.pool, Tensor)]
    assert len(pools) == 2
    targets = [*data.train.targets, *data.test.targets]
    pooled = Images(torch.cat(pools), range(len(targets)), targets, data.train.normalise)
    rng = np.random.default_rng(1)
    pairs = []
    for part in dirichlet(targets, parts):
        rows = rng.permutation(part).tolist()
        n_train = len(rows) * 4 // 5
        pairs.append((pooled.take(rows[:n_train]), pooled.take(rows[n_train:])))
    return pairs


def _partition(
    request: StreamRequest[Options], orders: str, source: ImageSource, cut: Callable[[ImageSet, int], _Pairs]
) -> list[ImageTask]:
    """Return the parts of a data set, all classes in each.

    :param orders: names the published orders, which say how many parts there are.
    """
    data = source.read(request)
    request.labels = data.classes
    parts = cut(data, len(numbered_orders(orders, request.order, request.tasks)[0]))
    return [
        image_task(request, name, data.classes, *parts[int(name.rpartition("-")[2])]) for name in request.task_names
    ]


def _facts(orders: str, source: ImageSource) -> dict[str, Any]:
    """Return what a stream says in the registry of its data set and of the published orders of its parts."""

    def known(names: Sequence[str], order: Order, tasks: int | Sequence[str] | None, **arguments: Any) -> Known:
        parts = len(numbered_orders(orders, order, tasks)[0])
        train, test = (sum(sizes[i] for sizes in source.class_sizes) // parts for i in (0, 1))
        return Known([KnownTask(source.facts.get("labels"), split_sizes(train, test))] * len(names), source.files)

    more = {"scenarios": ("dil",), "reason": _REASON, "orders": 20, "published": numbered_orders_of(orders)}
    return {**source.facts, **more, "known": known}


@image_stream("mnist", title="MNIST in even parts", **_facts("mnist", MNIST))
def PartitionedMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """MNIST in ten even parts; more than ten tasks, of twenty."""
    return _partition(request, "mnist", MNIST, even_parts)


@image_stream("fashionmnist", title="FashionMNIST in even parts", **_facts("fashionmnist", FASHION))
def PartitionedFashionMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """FashionMNIST in ten even parts; more than ten tasks, of twenty."""
    return _partition(request, "fashionmnist", FASHION, even_parts)


@image_stream("cifar10", title="CIFAR-10 in even parts", **_facts("cifar10", CIFAR10))
def PartitionedCIFAR10(request: StreamRequest[Options]) -> list[ImageTask]:
    """CIFAR-10 in ten even parts; more than ten tasks, of twenty."""
    return _partition(request, "cifar10", CIFAR10, even_parts)


@image_stream("cifar100", title="CIFAR-100 in even parts", **_facts("cifar100", CIFAR100))
def PartitionedCIFAR100(request: StreamRequest[Options]) -> list[ImageTask]:
    """CIFAR-100 in ten even parts; more than ten tasks, of twenty."""
    return _partition(request, "cifar100", CIFAR100, even_parts)


@image_stream(
    "cifar10hetero",
    title="CIFAR-10 in parts of uneven classes",
    **_facts("cifar10", CIFAR10)
    | {"sizes": None, "known": lambda names, **arguments: Known([KnownTask()] * len(names), CIFAR10.files)},
)
def HeterogeneousCIFAR10(request: StreamRequest[Options]) -> list[ImageTask]:
    """CIFAR-10 in ten parts with class proportions of their own; more than ten tasks, of twenty."""
    return _partition(request, "cifar10", CIFAR10, uneven_parts)
