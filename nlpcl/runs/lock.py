"""One process at a time in a run's folder."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nlpcl.config.files import file_error
from nlpcl.errors import UsageError

PATIENCE = 10.0
"""Seconds to wait for a process that is about to end, as one that has lost its node."""
BUSY = "another process is at this run"
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system that locks no files: there nothing is locked."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder, which is made if it is missing and removed if it stays empty.

    :raises UsageError: another process holds it, or it cannot be made.
    """
    is_new = not folder.parent.exists()
    lock = None
    try:
        lock = acquire(folder / ".lock", PATIENCE)
        yield
    finally:
        if lock is not None:
            release(lock)
        with suppress(OSError):  # not empty
            folder.rmdir()
            if is_new:
                folder.parent.rmdir()


def is_locked(folder: Path) -> bool:
    """Return whether a process holds a run's folder."""
    try:
        release(acquire(folder / ".lock", 0))
    except UsageError:
        return True
    return False


def acquire(file: Path, patience: float) -> FileLock:
    """Lock a file, in which the holder's name then stands, until `release` or the end of this process, however it ends.

    :param patience: seconds to wait for another process.
    :raises UsageError: another process holds it, or the file cannot be made.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience, poll_interval=0.1)
        with suppress(OSError):  # a full disk: the lock holds all the same
            file.write_text(f"process {os.getpid()} on {platform.node()}")
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = file.read_text()[:100]
        who = f"{BUSY} ({holder})" if holder else BUSY
        raise UsageError(f"{who}: wait for its end, or choose another --out than {file.parent.parent}.") from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise file_error(f"{file.parent} cannot be written", error, "choose another --out") from error
    return lock


def release(lock: FileLock) -> None:
    """Remove the locked file, while nobody else can have it, and unlock it."""
    if lock.is_locked:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
    lock.release()
