"""Task orders, SHA-256 and numbers of examples of published streams, from the lists beside this file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from nlpcl.config.orders import Order, Published
from nlpcl.registry import Known, KnownTask

_HERE = files("nlpcl.benchmarks._files")


@cache
def _every_order() -> dict[str, list[list[str]]]:
    orders: dict[str, list[list[str]]] = json.loads(_HERE.joinpath("orders.json").read_text(encoding="utf-8"))
    return orders


def published_orders(name: str) -> list[list[str]]:
    """Return the published task orders of a stream.

    :raises KeyError: none are known.
    """
    return _every_order()[name]


def orders_of(name: str) -> Callable[..., Published]:
    """Return a function for `BenchmarkEntry.published`: the same orders, whatever is asked for."""
    return lambda **arguments: (published_orders(name), None)


@cache
def published_hashes(folder: str) -> dict[str, str]:
    """Return the SHA-256 of a stream's files by path, from `<folder>.sha256`."""
    lines = _HERE.joinpath(f"{folder}.sha256").read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


@cache
def published_sizes(name: str) -> dict[str, tuple[int, int, int]]:
    """Return by task of a stream its numbers of training, validation and test examples."""
    sizes = json.loads(_HERE.joinpath("sizes.json").read_text(encoding="utf-8"))[name]
    return {task: (train, valid, test) for task, (train, valid, test) in sizes.items()}


def known_data(
    name: str, labels_of: Callable[[str], tuple[str, ...]], paths_of: Callable[[str], Iterable[str]]
) -> Callable[..., Known]:
    """Return a function for `BenchmarkEntry.known`, of a stream in the lists of sizes and of SHA-256.

    :param labels_of: gives the labels of a task.
    :param paths_of: gives the paths of a task's files in the stream's folder.
    """

    def known(names: Sequence[str], **arguments: Any) -> Known:
        sizes, hashes = published_sizes(name), published_hashes(name)
        tasks = [KnownTask(labels_of(task), sizes[task]) for task in names]
        return Known(tasks, {f"{name}/{path}": hashes[path] for task in names for path in paths_of(task)})

    return known


def known_labels(labels: tuple[str, ...], files: Mapping[str, str | None] | None = None) -> Callable[..., Known]:
    """Return a function for `BenchmarkEntry.known`, of a stream of which only labels and files are known."""
    return lambda names, **arguments: Known([KnownTask(labels)] * len(names), files)


def numbered_orders(name: str, order: Order, tasks: int | Sequence[str] | None) -> list[list[str]]:
    """Return orders of the tasks `<name>-0`, `<name>-1`, ...: of ten, or of twenty where more are asked for.

    Where no order of twenty was published there is one, the natural one.

    :param order: as in `order_tasks`; names beyond the tenth ask for twenty.
    :param tasks: as in `order_tasks`.
    """
    ten = published_orders(name)
    named = set() if isinstance(order, (int, str)) else set(order)
    twenty = [f"{name}-{i}" for i in range(20)]
    if (isinstance(tasks, int) and tasks > 10) or (not named <= set(ten[0]) and named <= set(twenty)):
        return _every_order().get(f"{name}_20", [twenty])
    return ten


def numbered_orders_of(name: str) -> Callable[..., Published]:
    """Return a function for `BenchmarkEntry.published`: the orders of `numbered_orders`."""
    return lambda order, tasks, **arguments: (numbered_orders(name, order, tasks), None)
