"""Avalanche's image streams in this package's shape: split, permuted and rotated MNIST, split CIFAR and their kin.

A split stream deals the classes out to the tasks. Its order 0 takes the classes as they are numbered; order n > 0
takes them as Avalanche's generators do with `seed=n`. Heads are per task, with class ids from 0 in each. SplitMNIST
also runs domain-incremental, in its natural order alone, where it asks whether a digit is even or odd. Permuted and
rotated MNIST change the images and keep the ten digits; permutation and angle belong to a task's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario
from torch import Tensor
from torch.nn import functional as F

from nlpcl.benchmarks._images import ImageTask, image_benchmark_from_tasks, image_task
from nlpcl.benchmarks.images._readers import (
    CLOTHES,
    DIGITS,
    OWN_FILES,
    ImageSet,
    read_cifar,
    read_idx,
    read_tiny_imagenet,
)
from nlpcl.config.orders import Published, order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import Scenario, register_benchmark

Reader = Callable[[str | Path | None], ImageSet]
ORDERS = 20
# Training, validation and test examples where classes are dealt out evenly.
IN_MNIST = (54_000, 6_000, 10_000)
IN_CIFAR = (45_000, 5_000, 10_000)
MNIST: dict[str, Any] = {
    "source": "ossci-datasets.s3.amazonaws.com/mnist",
    "licence": "CC BY-SA 3.0, as commonly stated",
    "citation": "LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 1998",
    "own_files": OWN_FILES["mnist"],
}
FASHION: dict[str, Any] = {
    "source": "GitHub zalandoresearch/fashion-mnist",
    "licence": "MIT",
    "citation": "Xiao, Rasul and Vollgraf, arXiv:1708.07747",
    "own_files": OWN_FILES["fashion-mnist"],
}
CIFAR = {
    "source": "www.cs.toronto.edu/~kriz/cifar.html, binary version",
    "licence": "none stated",
    "citation": "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
}
CIFAR10: dict[str, Any] = {**CIFAR, "own_files": OWN_FILES["cifar10"]}
CIFAR100: dict[str, Any] = {**CIFAR, "own_files": OWN_FILES["cifar100"]}
TINY: dict[str, Any] = {
    "source": "cs231n.stanford.edu/tiny-imagenet-200.zip, to be fetched by hand",
    "licence": "that of ImageNet: research, not commercial",
    "citation": "Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
    "own_files": OWN_FILES["tiny-imagenet-200"],
}


def read_mnist(root: str | Path | None) -> ImageSet:
    """MNIST."""
    return read_idx("mnist", DIGITS, root)


def read_fashion(root: str | Path | None) -> ImageSet:
    """FashionMNIST."""
    return read_idx("fashion-mnist", CLOTHES, root)


def read_cifar10(root: str | Path | None) -> ImageSet:
    """CIFAR-10."""
    return read_cifar("cifar10", root)


def read_cifar100(root: str | Path | None) -> ImageSet:
    """CIFAR-100."""
    return read_cifar("cifar100", root)


def class_order(n: int, order: int) -> list[int]:
    """The classes 0..n-1 as they are (order 0), or as Avalanche shuffles them with `seed=order`."""
    if order == 0:
        return list(range(n))
    return torch.randperm(n, generator=torch.Generator().manual_seed(order)).tolist()


def group_name(classes: Sequence[str]) -> str:
    """Name of a task: its class or two, or the first and how many more."""
    return "+".join(classes) if len(classes) <= 2 else f"{classes[0]}+{len(classes) - 1}"


def split_tasks(classes: Sequence[str], n_tasks: int, order: object) -> dict[str, list[int]]:
    """By name of each task its classes, dealt out in a published order; where names are given, in the natural one."""
    number = order if isinstance(order, int) and 0 <= order < ORDERS else 0
    dealt = class_order(len(classes), number)
    size = len(dealt) // n_tasks
    parts = (dealt[i : i + size] for i in range(0, len(dealt), size))
    return {group_name([classes[k] for k in own]): own for own in parts}


def _register_split(
    name: str, reader: Reader, n_tasks: int, title: str, **facts: Any
) -> Callable[..., CLScenario[Any]]:
    parity = name == "SplitMNIST"

    def split(
        scenario: str = "til",
        order: int | str | Sequence[str] = 0,
        *,
        tasks: int | Sequence[str] | None = None,
        train_size: int | None = None,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> CLScenario[Any]:
        """Classes dealt out to tasks; a tenth of the training data is for validation.

        :param scenario: `til`, or `cil` with one head of all classes; SplitMNIST also `dil`.
        :param order: 0 to 19, see the module, or names of the natural order's tasks.
        :param tasks: only the first so many.
        :param train_size: at most so many training examples per task, drawn with `seed`.
        :param seed: seed of that draw and of the validation data's.
        :param root: folder with the data; None: downloaded, unless NLPCL_DATA names one.
        :raises UsageError: unknown order or task; data missing; a scenario without a meaning.
        """
        if scenario == "dil" and not parity:
            raise UsageError(f"{name} does not run domain-incremental: {NO_MEANING}.")
        if scenario == "dil" and order in range(1, ORDERS):
            raise UsageError(f"{name} pairs even with odd digits in its natural order alone: --order 0.")
        data = reader(root)
        groups = split_tasks(data.classes, n_tasks, order)
        known = [list(groups)] * ORDERS
        chosen = []
        for task in order_tasks(known, order, tasks):
            own = groups[task]
            labels = ("even", "odd") if scenario == "dil" else tuple(data.classes[k] for k in own)
            train, test = data.train.of_classes(own), data.test.of_classes(own)
            chosen.append(image_task(task, labels, train, test, train_size, seed))
        head = tuple(data.classes) if scenario == "cil" else None
        return image_benchmark_from_tasks(chosen, name=name, scenario=scenario, labels=head, files=data.files)

    def published(order: object, **asked: Any) -> Published:
        return [list(split_tasks(facts["labels"], n_tasks, order))] * ORDERS, None

    split.__name__ = split.__qualname__ = name
    scenarios: tuple[Scenario, ...] = ("til", "dil", "cil") if parity else ("til", "cil")
    reason = "" if parity else NO_MEANING
    return register_benchmark(
        name,
        title=title,
        scenarios=scenarios,
        reason=reason,
        orders=ORDERS,
        modality="image",
        language="",
        published=published if "labels" in facts else None,  # else the data name the classes
        **facts,
    )(split)


NO_MEANING = "its tasks have different classes, so a head they shared would mean something else in each"
SplitMNIST = _register_split(
    "SplitMNIST", read_mnist, 5, "MNIST, two digits a task", labels=DIGITS, sizes=(54_002, 5_998, 10_000), **MNIST
)
SplitFMNIST = _register_split(
    "SplitFMNIST", read_fashion, 5, "FashionMNIST, two classes a task", labels=CLOTHES, sizes=IN_MNIST, **FASHION
)
SplitCIFAR10 = _register_split(
    "SplitCIFAR10", read_cifar10, 5, "CIFAR-10, two classes a task", sizes=IN_CIFAR, **CIFAR10
)
SplitCIFAR100 = _register_split(
    "SplitCIFAR100", read_cifar100, 10, "CIFAR-100, ten classes a task", sizes=IN_CIFAR, **CIFAR100
)
SplitTinyImageNet = _register_split(
    "SplitTinyImageNet",
    read_tiny_imagenet,
    10,
    "Tiny ImageNet, twenty classes a task",
    sizes=(90_000, 10_000, 10_000),
    **TINY,
)


def permutation(number: int) -> Callable[[Tensor], Tensor]:
    """Shuffles pixels of MNIST images (..., 1, 28, 28), always in the way that `number` names; 0 leaves them alone."""
    places = torch.randperm(28 * 28, generator=torch.Generator().manual_seed(number))

    def permute(x: Tensor) -> Tensor:
        return x.flatten(-3)[..., places].view_as(x)

    return permute if number else lambda x: x


def rotation(degrees: float) -> Callable[[Tensor], Tensor]:
    """Turns MNIST images (..., 1, 28, 28) anticlockwise about the centre, bilinearly; what comes into view is black."""
    angle = torch.tensor(degrees).deg2rad()
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])[None]
    grid = F.affine_grid(turn, [1, 1, 28, 28], align_corners=False)

    def rotate(x: Tensor) -> Tensor:
        images = x.view(-1, 1, 28, 28)
        return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False).view_as(x)

    return rotate if degrees else lambda x: x


def _register_changed(
    name: str,
    change: Callable[[int], Callable[[Tensor], Tensor]],
    steps: Sequence[int],
    prefix: str,
    title: str,
    citation: str,
) -> Callable[..., CLScenario[Any]]:
    names = [f"{prefix}-{step}" for step in steps]
    orders = [[names[i] for i in class_order(len(names), order)] for order in range(ORDERS)]

    def changed(
        scenario: str = "dil",
        order: int | str | Sequence[str] = 0,
        *,
        tasks: int | Sequence[str] | None = None,
        train_size: int | None = None,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> CLScenario[Any]:
        """The same digits, changed in another way in each task; a tenth of the training data is for validation.

        :param scenario: `dil`, or `til`, with a head for each task.
        :param order: 0 to 19, permutations of the tasks, the first the natural one; or names of tasks.
        :param tasks: only the first so many.
        :param train_size: at most so many training examples per task, drawn with `seed`.
        :param seed: seed of that draw and of the validation data's, the same images for every task.
        :param root: folder with the data; None: downloaded, unless NLPCL_DATA names one.
        :raises UsageError: unknown order or task; data missing.
        """
        data = read_mnist(root)
        chosen: list[ImageTask] = []
        for task in order_tasks(orders, order, tasks):
            own = change(steps[names.index(task)])
            parts = (data.train.changed(own), data.test.changed(own))
            chosen.append(image_task(task, DIGITS, *parts, train_size, seed))
        return image_benchmark_from_tasks(chosen, name=name, scenario=scenario, files=data.files)

    changed.__name__ = changed.__qualname__ = name
    facts = {**MNIST, "citation": f"{MNIST['citation']}; as a stream: {citation}"}
    train, valid, test = (len(names) * size for size in IN_MNIST)  # every task has all of MNIST
    return register_benchmark(
        name,
        title=f"MNIST, {title}",
        labels=DIGITS,
        orders=ORDERS,
        sizes=(train, valid, test),
        modality="image",
        language="",
        published=lambda **asked: (orders, None),
        **facts,
    )(changed)


PermutedMNIST = _register_changed(
    "PermutedMNIST",
    permutation,
    range(10),
    "permutation",
    "pixels shuffled in ten ways",
    "Goodfellow et al., ICLR 2014",
)
RotatedMNIST = _register_changed(
    "RotatedMNIST",
    rotation,
    range(0, 180, 18),
    "rotation",
    "turned by 0 to 162 degrees",
    "Lopez-Paz and Ranzato, NeurIPS 2017",
)
