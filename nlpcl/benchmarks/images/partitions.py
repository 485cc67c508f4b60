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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import CLScenario
from torch import Tensor

from nlpcl.benchmarks._images import Images, image_benchmark_from_tasks, image_task, numbered_orders
from nlpcl.benchmarks.images._readers import ImageSet
from nlpcl.benchmarks.images.split import (
    CIFAR10,
    CIFAR100,
    FASHION,
    IN_CIFAR,
    IN_MNIST,
    MNIST,
    Reader,
    read_cifar10,
    read_cifar100,
    read_fashion,
    read_mnist,
)
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

CONCENTRATION = 0.5
SMALLEST = 10
REASON = "its parts have the same classes and no theme of their own that a task label could name"


def stratified(targets: Sequence[int], parts: int) -> list[list[int]]:
    """Positions of every part; a class is spread evenly, and each position is in one part.

    Where a class does not divide by the number of parts, the parts with one more differ from class to class.
    """
    rng = np.random.default_rng(0)
    labels = np.asarray(targets)
    dealt: list[list[int]] = [[] for _ in range(parts)]
    turn = 0
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label)).tolist()
        for row in rows:
            dealt[turn % parts].append(row)
            turn += 1
    return [sorted(part) for part in dealt]


def dirichlet(targets: Sequence[int], parts: int, concentration: float = CONCENTRATION) -> list[list[int]]:
    """Positions of every part; each class is spread by proportions from a symmetric Dirichlet distribution.

    A part that has reached N / T takes nothing of the classes that follow. Drawn anew until no part is tiny.

    :raises UsageError: there are too few images for so many parts.
    """
    rng = np.random.default_rng(0)
    labels = np.asarray(targets)
    if len(labels) < 4 * SMALLEST * parts:
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
        if min(len(part) for part in dealt) >= SMALLEST:
            return [sorted(part) for part in dealt]


def even_parts(data: ImageSet, parts: int) -> list[tuple[Images, Images]]:
    """Training and test images of every part, both stratified."""
    train, test = (stratified(images.targets, parts) for images in (data.train, data.test))
    return [(data.train.take(a), data.test.take(b)) for a, b in zip(train, test, strict=True)]


def uneven_parts(data: ImageSet, parts: int) -> list[tuple[Images, Images]]:
    """Training and test images of every part, with class proportions of its own."""
    pools = [images.pool for images in (data.train, data.test)]
    assert all(isinstance(pool, Tensor) for pool in pools)
    targets = data.train.targets + data.test.targets
    whole = Images(torch.cat(pools), range(len(targets)), targets, data.train.scale)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    found = []
    for part in dirichlet(targets, parts):
        rows = rng.permutation(part).tolist()
        n_train = len(rows) * 4 // 5
        found.append((whole.take(rows[:n_train]), whole.take(rows[n_train:])))
    return found


def _register_partition(
    name: str,
    reader: Reader,
    cut: Callable[[ImageSet, int], list[tuple[Images, Images]]],
    title: str,
    orders: str,
    facts: dict[str, Any],
    sizes: tuple[int, int, int] | None = None,
) -> Callable[..., CLScenario[Any]]:
    def partition(
        scenario: str = "dil",
        order: int | str | Sequence[str] = 0,
        *,
        tasks: int | Sequence[str] | None = None,
        train_size: int | None = None,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> CLScenario[Any]:
        """One part of the data set a task, all classes in each.

        :param scenario: `dil`.
        :param order: 0 to 19, or names of parts.
        :param tasks: only the first so many, of ten parts; more than ten: of twenty.
        :param train_size: at most so many training examples per task, drawn with `seed`.
        :param seed: seed of that draw and of the validation data's.
        :param root: folder with the data; None: downloaded, unless NLPCL_DATA names one.
        :raises UsageError: unknown order or part; data missing; `til`.
        """
        if scenario == "til":
            raise UsageError(f"{name} does not run task-incremental: {REASON}. It runs with --scenario dil.")
        known = numbered_orders(orders, order, tasks)
        chosen = order_tasks(known, order, tasks)
        data = reader(root)
        parts = cut(data, len(known[0]))
        made = [
            image_task(task, data.classes, *parts[int(task.rpartition("-")[2])], train_size, seed) for task in chosen
        ]
        return image_benchmark_from_tasks(made, name=name, scenario=scenario, labels=data.classes, files=data.files)

    partition.__name__ = partition.__qualname__ = name
    return register_benchmark(
        name,
        title=title,
        scenarios=("dil",),
        reason=REASON,
        orders=20,
        sizes=sizes,
        modality="image",
        language="",
        published=lambda order, tasks, **asked: (numbered_orders(orders, order, tasks), None),
        **facts,
    )(partition)


PartitionedMNIST = _register_partition("mnist", read_mnist, even_parts, "MNIST in even parts", "mnist", MNIST, IN_MNIST)
PartitionedFashionMNIST = _register_partition(
    "fashionmnist", read_fashion, even_parts, "FashionMNIST in even parts", "fashionmnist", FASHION, IN_MNIST
)
PartitionedCIFAR10 = _register_partition(
    "cifar10", read_cifar10, even_parts, "CIFAR-10 in even parts", "cifar10", CIFAR10, IN_CIFAR
)
PartitionedCIFAR100 = _register_partition(
    "cifar100", read_cifar100, even_parts, "CIFAR-100 in even parts", "cifar100", CIFAR100, IN_CIFAR
)
HeterogeneousCIFAR10 = _register_partition(
    "cifar10hetero", read_cifar10, uneven_parts, "CIFAR-10 in parts of uneven classes", "cifar10", CIFAR10
)
