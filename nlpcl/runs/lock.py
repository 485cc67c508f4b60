"""One process at a time in a run's folder: advisory locks that end with their process, however it ends."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nlpcl.config.files import file_error
from nlpcl.errors import UsageError

PATIENCE = 10.0
"""Seconds to wait for a process that is about to end, as one that has lost its node."""
POLL = 0.1
"""Seconds between two tries."""
BUSY = "another process is at this run"
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system that locks no files: there nothing is locked."""
_TRIES = 20
"""So often a file is tried to be made in a folder that another process may just have removed."""


@dataclass
class Lock:
    """A locked file.

    :param handle: of the open file; None where nothing can be locked.
    """

    file: Path
    handle: int | None


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


def is_locked(file: Path) -> bool:
    """Return whether a process holds a file."""
    import fcntl  # which Windows lacks, where `run` refuses to start

    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in WITHOUT_LOCKS
    finally:
        os.close(handle)
    return False


def acquire(file: Path, patience: float, busy: str = BUSY, advice: str = "") -> Lock:
    """Lock a file, in which the holder's name then stands, until `release` or the end of this process, however it ends.

    :param patience: seconds to wait for another process.
    :param busy: what is said if another process holds it.
    :param advice: what to do then, or if the file cannot be made.
    :raises UsageError: another process holds it, or the file cannot be made.
    """
    advice = advice or f"choose another --out than {file.parent.parent}"
    end = time.monotonic() + patience
    try:
        while True:
            handle = _open(file)
            holds = _holds(file, handle)
            if holds:
                with suppress(OSError):  # a full disk: it is held without a name
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
                return Lock(file, handle)
            holder = b""
            with suppress(OSError):  # not a plain file
                holder = os.pread(handle, 100, 0)
            os.close(handle)
            if holds is None:
                return Lock(file, None)
            if time.monotonic() >= end:
                who = f"{busy} ({holder.decode(errors='replace')})" if holder else busy
                raise UsageError(f"{who}: wait for its end, or {advice}.")
            time.sleep(POLL)
    except OSError as error:
        raise file_error(f"{file.parent} cannot be written", error, advice) from error


def _open(file: Path) -> int:
    """Return a handle of a file, which is made with its folder if it is missing.

    :raises OSError: it cannot be made.
    """
    for tries in range(_TRIES):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        except (FileNotFoundError, FileExistsError):  # another process has just removed an empty folder
            if tries == _TRIES - 1:
                raise
    raise AssertionError


def _holds(file: Path, handle: int) -> bool | None:
    """Lock a file if nobody else does; return whether this process holds it, or None where nothing can be locked.

    Who holds a file removes it before it unlocks it. One that waited meanwhile gets the lock of a file that is gone,
    beside one that has made a new file of this name: then it has to try again.

    :raises OSError: it cannot be locked for another reason.
    """
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _is_at(file, handle)
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return None
        if isinstance(error, BlockingIOError) or error.errno == errno.ESTALE:  # another machine has removed it
            return False
        raise


def _is_at(file: Path, handle: int) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def release(lock: Lock) -> None:
    """Remove the locked file, while nobody else can have it, and unlock it; a second time does nothing."""
    if lock.handle is None:
        return
    with suppress(OSError):
        if _is_at(lock.file, lock.handle):
            lock.file.unlink()
    os.close(lock.handle)
    lock.handle = None
