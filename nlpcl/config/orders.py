"""Which tasks of a stream come, and when: a published order, a random one, or names."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

from nlpcl.errors import UsageError, check_known

Order = int | str | Sequence[str]
Published = tuple[Sequence[Sequence[str]], Sequence[str] | None]
"""The arguments `orders` and `known` of `order_tasks`."""
RANDOM = "seed:"
MOST_TASKS = 1000
"""Tasks of a run, and rows and columns of a record's matrices."""
NUMBER = re.compile(r"[0-9]{1,18}")


def canonical_order(order: Order) -> int | str | list[str]:
    """Return the one way to write an order: "3" is 3, "seed:07" is "seed:7" and "laptop" is ["laptop"]."""
    if not isinstance(order, str):
        return order if isinstance(order, int) else list(order)
    prefix, number = (RANDOM, order.removeprefix(RANDOM)) if order.startswith(RANDOM) else ("", order)
    if NUMBER.fullmatch(number):
        return f"{prefix}{int(number)}" if prefix else int(number)
    return order if prefix else [order]


def check_order(order: Order, published: int) -> None:
    """Refuse an order that no stream with this many published orders can follow, whatever its tasks are called.

    :raises UsageError: no such number, no task, or a task twice.
    """
    if isinstance(order, int):
        if not 0 <= order < published:
            numbers = f"0 to {published - 1}" if published > 1 else "0"
            raise UsageError(f"--order must be {numbers}, seed:N, or task names joined by commas, not {order}.")
    elif isinstance(order, str):
        if order.startswith(RANDOM) and not NUMBER.fullmatch(order.removeprefix(RANDOM)):
            raise UsageError(f"a random order is named by a whole number, as seed:7, not {order!r}.")
    elif not order or len(set(order)) < len(order):
        raise UsageError("an order names at least one task, and none twice.")


def check_names(names: Iterable[str], known: Sequence[str], place: str = "") -> None:
    """Refuse names of tasks that do not exist.

    :param place: where the names stand, for the message.
    :raises UsageError: the first name that is not known, with the nearest that are.
    """
    check_known(names, known, f"{place}unknown task")


def order_tasks(
    orders: Sequence[Sequence[str]],
    order: Order,
    tasks: int | Sequence[str] | None,
    known: Sequence[str] | None = None,
) -> list[str]:
    """Return the names of a stream's tasks in order.

    :param orders: the published orders, each over the same names.
    :param order: number of a published order, `seed:N` for a random one, or the names themselves.
    :param tasks: number of tasks to keep, or their names; None means all.
    :param known: names that an explicit order may take; None means those of the published orders.
    :raises UsageError: no such order or name, a name twice, more tasks than there are, or than a record can hold.
    """
    check_order(order, len(orders))
    if isinstance(order, int):
        names = list(orders[order])
    elif isinstance(order, str) and order.startswith(RANDOM):
        names = sorted(orders[0])
        random.Random(int(order.removeprefix(RANDOM))).shuffle(names)
    else:
        names = [order] if isinstance(order, str) else list(order)
        check_names(names, known or orders[0])
    if isinstance(tasks, int):
        if not 1 <= tasks <= len(names):
            raise UsageError(f"--tasks must be 1 to {len(names)}, or task names joined by commas, not {tasks}.")
        names = names[:tasks]
    elif tasks is not None:
        check_names(tasks, names)
        if not tasks or len(set(tasks)) < len(tasks):
            raise UsageError("a choice of tasks names at least one task, and none twice.")
        names = [name for name in names if name in tasks]
    if len(names) > MOST_TASKS:
        raise UsageError(
            f"{len(names):,} tasks are more than a record can hold: take at most {MOST_TASKS:,}, --tasks N."
        )
    return names
