"""Files that are written as a whole or not at all, and how plain files are opened, hashed and read."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from nlpcl.errors import UsageError

MOST_BYTES = 32 * 2**20
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
    """Give a name beside `path` to write to; at the end the file there is synced and takes the place of `path`.

    So `path` holds either what it held before or all of the new content. On an error nothing is left, no new folder
    either. The file may be read by whom the umask lets read, unlike one of `mkstemp`.

    :raises OSError: it cannot be written.
    """
    created = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # another process may have written to the new folders meanwhile
            temporary.unlink(missing_ok=True)
            for parent in created:
                parent.rmdir()
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either what it held before or all of it.

    :raises UsageError: it cannot be written.
    """
    with file_errors(f"could not write {path}"), replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def file_errors(failure: str) -> Iterator[None]:
    """Raise an OSError from within as a sentence.

    :param failure: what could not be done, as "cannot read FILE".
    :raises UsageError: the failure, and what the system says of it.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{failure} ({error.strerror or error}).") from error


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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a plain file, which is read again only if its device, inode, size or a time is another.

    A tool that restores the time of modification (`rsync -t`, `touch -r`) cannot set that of the last change of status.

    :raises UsageError: as `open_plain`.
    """
    facts = check_plain(path)
    stamp = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
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
