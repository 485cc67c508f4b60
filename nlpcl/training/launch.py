"""Which of the processes that torchrun starts this is, without torch: from the environment alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from nlpcl.errors import OneProcessError, UsageError

VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MOST_PROCESSES = 1_000_000
_ADDRESS = re.compile(r"[\w.:%\[\]-]{1,255}", re.ASCII)


@dataclass(frozen=True)
class Launch:
    """This process among those that one command started.

    :param rank: its number, from 0; `local_rank` is that on its machine.
    :param world_size: number of processes; `local_world_size` is that on its machine.
    :param address: host name of the first process, whose port is `port`.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    address: str
    port: int


def launch() -> Launch | None:
    """Return which process this is, or None if it is alone.

    :raises UsageError: a variable of the environment is missing or senseless.
    """
    if "WORLD_SIZE" not in os.environ:
        return None
    world_size = _number("WORLD_SIZE", 1, MOST_PROCESSES)
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing and world_size > 1:
        raise _refused(f"WORLD_SIZE is {world_size} without {', '.join(missing)}")
    local_world_size = _number("LOCAL_WORLD_SIZE", 1, world_size, world_size)
    rank = _number("RANK", 0, world_size - 1, 0)
    local_rank = _number("LOCAL_RANK", 0, local_world_size - 1, 0)
    if world_size == 1:
        return None
    address = os.environ["MASTER_ADDR"]
    if not _ADDRESS.fullmatch(address):
        raise _refused(f"MASTER_ADDR is {_shown(address)}, and not the name or address of a host")
    return Launch(rank, local_rank, world_size, local_world_size, address, _number("MASTER_PORT", 1, 65535))


def check_alone(command: str) -> None:
    """Refuse a command whose runs are processes of their own, or alone.

    :raises UsageError: torchrun has started it several times, or as `launch`.
    """
    if launch() is not None:
        raise UsageError(f"nlpcl {command} is one process: start it without torchrun.")


def local_rank() -> int:
    """Return the number of this process on its machine, from 0.

    :raises UsageError: as `launch`.
    """
    started = launch()
    return 0 if started is None else started.local_rank


def speaks(everywhere: bool = False) -> bool:
    """Return whether this process writes to the terminal: the first of all; one that knows not which it is does, too.

    :param everywhere: the first of each machine.
    """
    try:
        started = launch()
    except UsageError:
        return True
    return started is None or (started.local_rank if everywhere else started.rank) == 0


def _number(name: str, low: int, high: int, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise _refused(f"{name} is {_shown(text or '')}, and not a whole number from {low} to {high}")
    return int(text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _refused(what: str) -> OneProcessError:
    return OneProcessError(
        f"{what}: start the processes with torchrun, which sets {', '.join(('WORLD_SIZE', *VARIABLES))}; for a process "
        "alone unset them."
    )
