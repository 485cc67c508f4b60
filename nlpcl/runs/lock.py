"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nlpcl.errors import UsageError

PATIENCE = 10.0
"""Seconds to wait for a process that is about to end, as one that has lost its node."""
POLL = 0.1
BUSY = "another process is at this run"


@contextmanager
def alone(place: Path | None) -> Iterator[None]:
    """Within it, no other process enters the same run's folder. Of several processes the first one holds it.

    The folder itself is locked, which leaves no file and ends with the process, however that ends. Where the file
    system cannot lock a folder (NFS), nothing is.

    :param place: the folder; None: there is none.
    :raises UsageError: another process holds it, or it cannot be made.
    """
    from nlpcl.training import distributed  # here, as what imports torch is not for a sweep that only asks

    held = None
    with distributed.raise_on_all_ranks():
        if place is not None and distributed.is_rank_zero():
            new = not place.parent.exists()
            held = _lock(place, PATIENCE)
    try:
        yield
    finally:
        if held is not None and place is not None:
            with suppress(OSError):  # it is not empty, unless the run has come to nothing
                place.rmdir()
                if new:
                    place.parent.rmdir()
            os.close(held)


def locked(descriptor: int) -> bool:
    """Lock what is open, unless another process has, for this process and those that inherit it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without such locks
        return True
    return True


def taken(place: Path) -> bool:
    """Whether a process holds a run's folder."""
    try:
        os.close(_lock(place, 0))
    except UsageError:
        return True
    return False


def _lock(place: Path, patience: float) -> int:
    end = time.monotonic() + patience
    try:
        place.mkdir(parents=True, exist_ok=True)
        held = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{place} cannot be written ({error.strerror}): choose another --out.") from error
    while not locked(held):
        if time.monotonic() > end:
            os.close(held)
            raise UsageError(f"{BUSY}: wait for its end, or choose another --out than {place.parent}.")
        time.sleep(POLL)
    return held
