"""Files that are written as a whole or not at all, and how plain files are opened, hashed and read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from nlpcl.errors import UsageError

MOST_BYTES = 32 * 2**20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a limit that leaves no room for a file."""
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r".+\.([0-9a-f]{8})-[0-9a-f]{24}\.part")
_DAY = 24 * 3600.0
_Model = TypeVar("_Model", bound=BaseModel)
_KNOWN: dict[tuple[int, ...], str] = {}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of an empty file beside `path` to write to; at the end it is synced and takes the place of `path`.

    So `path` holds either what it held before or all of the new content. On an error nothing is left, no new folder
    either; what a process that was killed has left is removed by the next that writes to the folder. The file may be
    read by whom the umask lets read, unlike one of `mkstemp`. It must be written to as it is, not replaced by another.

    :raises OSError: it cannot be written.
    """
    created = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f"{path.name}.{_MACHINE}-{uuid4().hex[:24]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with _held(temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        for folder in (path.parent, *(parent.parent for parent in created)):
            sync(folder)
    except BaseException:
        with suppress(OSError):  # another process may have written to the new folders meanwhile
            temporary.unlink(missing_ok=True)
            for parent in created:
                parent.rmdir()
        raise


@contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Create a file and lock it until the end, or until this process ends, however it ends."""
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _lock(handle, wait=True)
        if not os.fstat(handle).st_nlink:  # removed between the last two steps
            with _held(temporary):
                yield
        else:
            yield
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    """Lock an open file; return False if another process has, or if its file system locks none."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of `replacing` whose writer was killed: nobody holds their lock.

    A shared disk may keep locks to each machine, so another machine's file stays for a day after its last change.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _TEMPORARY.fullmatch(entry.name)
            if not name or not entry.is_file(follow_symlinks=False):
                continue
            with suppress(OSError):
                if name[1] != _MACHINE and time.time() - entry.stat().st_mtime < _DAY:
                    continue
                handle = os.open(entry.path, os.O_RDWR)
                try:
                    if _lock(handle, wait=False):
                        os.unlink(entry.path)
                finally:
                    os.close(handle)


def sync(path: Path) -> None:
    """Put a file or folder on the disk as the system has it in memory.

    :raises OSError: it cannot be written.
    """
    if sys.platform == "win32":  # which opens no folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that syncs no folder
            raise
    finally:
        os.close(handle)


def allocate(handle: int, size: int) -> None:
    """Take the room of an open file on its disk now, where the system can, so that want of it shows at once.

    :param size: in bytes.
    :raises OSError: there is no such room.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # of a file system that cannot
            raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either what it held before or all of it.

    :raises UsageError: it cannot be written.
    """
    with file_errors(f"could not write {path}"), replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def file_errors(failure: str, advice: str = "") -> Iterator[None]:
    """Raise an OSError from within as a sentence.

    :param failure: what could not be done, as "cannot read FILE".
    :param advice: what to do, unless it is to make room.
    :raises UsageError: the failure, what the system says of it, and the advice.
    """
    try:
        yield
    except OSError as error:
        raise file_error(failure, error, advice) from error


def file_error(failure: str, error: OSError, advice: str = "") -> UsageError:
    """Return the sentence of `file_errors`."""
    advice = "make room there" if error.errno in FULL else advice
    return UsageError(f"{failure} ({error.strerror or error}){': ' if advice else ''}{advice}.")


def check_plain(path: Path) -> os.stat_result:
    """Refuse what is no plain file nor a link to one: a named pipe makes its reader wait, and a device may have no end.

    :return: the file's facts.
    :raises UsageError: it is no plain file, or there is none.
    """
    with file_errors(f"cannot read {path}"):
        facts = path.stat()
    kind = stat.S_IFMT(facts.st_mode)
    if kind != stat.S_IFREG:
        raise UsageError(f"cannot read {path}: it is {_KINDS.get(kind, 'something else')} and no plain file.")
    return facts


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open a plain file to read its bytes.

    :raises UsageError: as `check_plain`, or it cannot be read, also later, within the block.
    """
    check_plain(path)
    with file_errors(f"cannot read {path}"), path.open("rb") as file:
        yield file


def read_plain(path: Path) -> bytes:
    """Return the content of a plain file.

    :raises UsageError: as `open_plain`.
    """
    with open_plain(path) as file:
        return file.read()


def sha256(path: Path, size: int | None = None) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    :param size: how many bytes of it; None means all.
    """
    digest = hashlib.sha256()
    left = sys.maxsize if size is None else size
    with path.open("rb") as file:
        while block := file.read(min(1 << 20, left)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return device, inode, size and times of a file, one of which is another when its content is.

    A tool that restores the time of modification (`rsync -t`, `touch -r`) cannot set that of the last change of status.

    :raises UsageError: as `open_plain`.
    """
    facts = check_plain(path)
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, which is read again only if its `stamp_of` is another."""
    stamp = stamp_of(path)
    if stamp not in _KNOWN:
        with file_errors(f"cannot read {path}"):
            _KNOWN[stamp] = sha256(path)
    return _KNOWN[stamp]


def read_model(kind: type[_Model], path: Path, name: str, most_bytes: int = MOST_BYTES) -> _Model:
    """Return the content of a JSON file.

    :param name: what a file of this kind is called, for the messages.
    :raises UsageError: there is no such file, it is not of this kind, or it is larger than `most_bytes`.
    """
    with open_plain(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UsageError(f"{path} is not a {name}: it is larger than {most_bytes // 2**20} MiB.")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise UsageError(f"{path} is not a {name}: {fault(error)}.") from error


def from_json(text: str | bytes) -> Any:
    """Return the value that a text of JSON stands for.

    :raises ValueError: it is no JSON, no text, holds a number of thousands of digits, or is nested thousands deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def fault(error: ValidationError) -> str:
    """Return what is wrong first in a file, and where in it."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{where}: {first['msg']}"
