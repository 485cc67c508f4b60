"""Avalanche's image streams in this package's shape: split, permuted and rotated MNIST, split CIFAR and their kin.

A split stream deals the classes out to the tasks. Its order 0 takes the classes as they are numbered; order n > 0
takes them as Avalanche's generators do with `seed=n`. Heads are per task, with class ids from 0 in each. SplitMNIST
also runs domain-incremental, in its natural order alone, where it asks whether a digit is even or odd. Permuted and
rotated MNIST change the images and keep the ten digits; permutation and angle belong to a task's name.

A tenth of the training data of each task is for validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nlpcl.benchmarks._images import ImageSource, ImageTask, image_stream, image_task
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks.images._cifar import CIFAR10, CIFAR100
from nlpcl.benchmarks.images._dealing import N_ORDERS, class_order, class_task, deal, known_class_task
from nlpcl.benchmarks.images._mnist import FASHION, MNIST
from nlpcl.benchmarks.images._tiny_imagenet import TINY_IMAGENET
from nlpcl.config.orders import Order, Published
from nlpcl.errors import UsageError
from nlpcl.options import Options
from nlpcl.registry import Known

_PARITY = ("even", "odd")
_SPLIT: dict[str, Any] = {
    "scenarios": ("til", "cil"),
    "reason": "its tasks have different classes, so a head they shared would mean something else in each",
    "orders": N_ORDERS,
}


def _orders_of(source: ImageSource) -> Callable[..., Published]:
    """Return a function for `BenchmarkEntry.published`: names of tasks of two of a set's classes each."""
    return lambda order, **arguments: ([list(deal(source.facts["labels"], 2, order))] * N_ORDERS, None)


def _known(source: ImageSource, n_tasks: int) -> Callable[..., Known]:
    """Return a function for `BenchmarkEntry.known` of a data set whose classes are dealt out evenly.

    Names of classes that are not known are replaced by their numbers: all tasks are of one size then.
    """
    n = len(source.class_sizes)
    classes = source.facts.get("labels") or tuple(map(str, range(n)))

    def known(names: Sequence[str], order: Order, scenario: str, **arguments: Any) -> Known:
        groups = deal(classes, n // n_tasks, order)
        tasks = [known_class_task(source, group) for group in groups.values()]
        if "labels" in source.facts:
            of_name = dict(zip(groups, tasks, strict=True))
            tasks = [of_name[name] for name in names]
        if scenario == "dil":
            tasks = [task._replace(labels=_PARITY) for task in tasks]
        return Known(tasks[: len(names)], source.files)

    return known


def _split(request: StreamRequest[Options], source: ImageSource, n_tasks: int) -> list[ImageTask]:
    """Return the tasks of a data set whose classes are dealt out evenly."""
    data = source.read(request)
    request.labels = data.classes
    if len(data.classes) < n_tasks:
        raise UsageError(
            f"{request.name} deals classes out to {n_tasks} tasks, and the data have {len(data.classes)}: complete the "
            "data root."
        )
    groups = deal(data.classes, len(data.classes) // n_tasks, request.order)
    # CIFAR's and Tiny ImageNet's classes are not known before the data are read.
    names = request.task_names or request.choose([list(groups)] * N_ORDERS)
    return [class_task(request, data, name, groups[name]) for name in names]


@image_stream(
    "SplitMNIST",
    title="MNIST, two digits a task",
    scenarios=("til", "dil", "cil"),
    orders=N_ORDERS,
    published=_orders_of(MNIST),
    known=_known(MNIST, 5),
    **MNIST.facts | {"sizes": (54_002, 5_998, 10_000)},
)
def SplitMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """Five tasks of two digits; domain-incremental, is a digit even or odd?"""
    parity = request.scenario == "dil"
    if parity and request.order in range(1, N_ORDERS):
        raise UsageError("SplitMNIST pairs even with odd digits in its natural order alone: --order 0.")
    tasks = _split(request, MNIST, 5)
    if parity:
        request.labels = _PARITY
        return [replace(task, labels=_PARITY) for task in tasks]
    return tasks


@image_stream(
    "SplitFMNIST",
    title="FashionMNIST, two classes a task",
    published=_orders_of(FASHION),
    known=_known(FASHION, 5),
    **FASHION.facts,
    **_SPLIT,
)
def SplitFMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """Five tasks of two kinds of clothes."""
    return _split(request, FASHION, 5)


@image_stream("SplitCIFAR10", title="CIFAR-10, two classes a task", known=_known(CIFAR10, 5), **CIFAR10.facts, **_SPLIT)
def SplitCIFAR10(request: StreamRequest[Options]) -> list[ImageTask]:
    """Five tasks of two kinds of things."""
    return _split(request, CIFAR10, 5)


@image_stream(
    "SplitCIFAR100", title="CIFAR-100, ten classes a task", known=_known(CIFAR100, 10), **CIFAR100.facts, **_SPLIT
)
def SplitCIFAR100(request: StreamRequest[Options]) -> list[ImageTask]:
    """Ten tasks of ten kinds of things."""
    return _split(request, CIFAR100, 10)


@image_stream(
    "SplitTinyImageNet",
    title="Tiny ImageNet, twenty classes a task",
    known=_known(TINY_IMAGENET, 10),
    **TINY_IMAGENET.facts,
    **_SPLIT,
)
def SplitTinyImageNet(request: StreamRequest[Options]) -> list[ImageTask]:
    """Ten tasks of twenty kinds of things."""
    return _split(request, TINY_IMAGENET, 10)


Change = Callable[[Tensor], Tensor]


def permutation(number: int) -> Change:
    """Return what shuffles the pixels of MNIST images (..., 1, 28, 28), always in one way; 0 leaves them alone."""
    places = torch.randperm(28 * 28, generator=torch.Generator().manual_seed(number))

    def permute(x: Tensor) -> Tensor:
        return x.flatten(-3)[..., places].view_as(x)

    return permute if number else lambda x: x


def rotation(degrees: float) -> Change:
    """Return what turns MNIST images (..., 1, 28, 28) anticlockwise about the centre, bilinearly, on black."""
    angle = torch.tensor(degrees).deg2rad()
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])[None]
    grid = F.affine_grid(turn, [1, 1, 28, 28], align_corners=False)

    def rotate(x: Tensor) -> Tensor:
        images = x.view(-1, 1, 28, 28)
        return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False).view_as(x)

    return rotate if degrees else lambda x: x


def _changed(request: StreamRequest[Options], change: Callable[[int], Change]) -> list[ImageTask]:
    """Return tasks of the same digits; the number in a task's name says how they are changed."""
    data = MNIST.read(request)

    def task(name: str) -> ImageTask:
        changed = change(int(name.rpartition("-")[2]))
        train, test = (replace(images, change=changed) for images in (data.train, data.test))
        return image_task(request, name, data.classes, train, test)

    return [task(name) for name in request.task_names]


def _facts_of_changed(names: list[str], stream: str) -> dict[str, Any]:
    """Return what a stream of MNIST says in the registry whose tasks have all digits: orders shuffle the tasks."""
    orders = [[names[i] for i in class_order(len(names), order)] for order in range(N_ORDERS)]
    task = known_class_task(MNIST, range(10))
    return {
        **MNIST.facts,
        "citation": f"{MNIST.facts['citation']}; as a stream: {stream}",
        "scenarios": ("dil", "til"),
        "orders": N_ORDERS,
        "sizes": tuple(len(names) * size for size in MNIST.facts["sizes"]),  # every task has all of MNIST
        "published": lambda **arguments: (orders, None),
        "known": lambda names, **arguments: Known([task] * len(names), MNIST.files),
    }


@image_stream(
    "PermutedMNIST",
    title="MNIST, pixels shuffled in ten ways",
    **_facts_of_changed([f"permutation-{i}" for i in range(10)], "Goodfellow et al., ICLR 2014"),
)
def PermutedMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """The same digits with their pixels shuffled in another way in each task, `permutation-0` to `permutation-9`."""
    return _changed(request, permutation)


@image_stream(
    "RotatedMNIST",
    title="MNIST, turned by 0 to 162 degrees",
    **_facts_of_changed([f"rotation-{i}" for i in range(0, 180, 18)], "Lopez-Paz and Ranzato, NeurIPS 2017"),
)
def RotatedMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """The same digits turned further in each task, from `rotation-0` to `rotation-162`."""
    return _changed(request, rotation)
