"""What the bytes of a file hold: text, JSON, compressed files. What a damaged one raises becomes a sentence."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from nlpcl.errors import UsageError

FAULTS = (
    *(OSError, EOFError),  # a file that is cut, also in Pillow and gzip
    *(zlib.error, lzma.LZMAError, struct.error, tarfile.TarError, zipfile.BadZipFile),
    *(ValueError, LookupError, TypeError, ArithmeticError, SyntaxError),  # numbers that make no sense; Pillow's PNG
    *(RuntimeError, MemoryError),  # an encrypted member or an unknown compression; a size beyond all memory
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What the libraries that decode a file raise if it is damaged, or of another kind than its name says."""


@contextmanager
def damaged(place: str, kind: str = "") -> Iterator[None]:
    """Raise what a library finds in a damaged file as a sentence. The block decodes, and judges nothing itself.

    :param place: the file, and what in it.
    :param kind: what it should have been, if it can be read as nothing else.
    :raises UsageError: naming the place.
    """
    try:
        yield
    except UsageError:
        raise
    except FAULTS as error:
        what = f"cannot be read as {kind}" if kind else "is damaged"
        raise UsageError(f"{place} {what} ({_reason(error)}); replace it by the original.") from error


def _reason(error: BaseException) -> str:
    """Return the first words of what an error says, or its kind if it names an object."""
    words = str(error).partition("\n")[0][:100]
    return type(error).__name__ if not words or re.search(r"\bat 0x", words) else words


def text_of(
    content: bytes,
    place: str,
    codec: str = "utf-8-sig",
    *,
    fault: str = "not UTF-8 text: replace it by the original, or save it as UTF-8",
    of_nul: str = "a NUL character: replace it by the original",
) -> str:
    """Return the text in a file, without a byte order mark.

    :param fault: what to say if it is none.
    :param of_nul: what to say if it holds a NUL character, which no text has.
    :raises UsageError: naming the place and the line.
    """
    try:
        text = content.decode(codec)
    except UnicodeError as error:
        line = 1 + content.count(b"\n", 0, error.start if isinstance(error, UnicodeDecodeError) else 0)
        raise UsageError(f"{place}, line {line}: {fault}.") from error
    text = text.removeprefix("\ufeff")  # utf-16-le and others leave the byte order mark in
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise UsageError(f"{place}, line {line}: {of_nul}.")
    return text


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold more than blanks, with their numbers."""
    # Not splitlines(): texts may hold characters that it takes for the end of a line.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def json_of(text: str, place: str, line: int | None = None) -> Any:
    """Return the value in a text of JSON.

    :param line: number of the text in the file, if it is a line of it.
    :raises UsageError: it is no JSON, naming the file and the line.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            line = error.lineno if "\n" in text else line
            fault = f"not JSON ({error.msg}, column {error.colno})"
        elif isinstance(error, ValueError):  # of `_once`, or an integer of more digits than Python converts
            fault = f"not JSON ({str(error).partition(': value')[0]})"
        else:
            fault = "nested too deeply"
        raise UsageError(f"{place}{'' if line is None else f', line {line}'}: {fault}.") from error


def unzipped(content: bytes, place: str) -> bytes:
    """Return what the content of a .gz file holds.

    :raises UsageError: it is cut short, or compressed in another way.
    """
    with damaged(place):
        return gzip.decompress(content)


def unpacked(content: bytes, place: str) -> dict[str, bytes]:
    """Return the files in an archive, by their paths in it, sorted; nothing is written.

    :param place: ends with .zip or .tar.gz.
    :raises UsageError: it or one of its files is damaged, two have one name, or one is a link.
    """
    members: dict[str, bytes] = {}
    with damaged(place), io.BytesIO(content) as file:
        for name, member in _zipped(file, place) if place.endswith(".zip") else _tarred(file, place):
            if name in members:
                raise UsageError(f"{place} holds {name} twice; replace it by the original.")
            members[name] = member
    return dict(sorted(members.items()))


def _zipped(file: io.BytesIO, place: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with damaged(f"{place}, {info.filename}"):
                    content = archive.read(info)
                yield info.filename, content


def _tarred(file: io.BytesIO, place: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        for info in archive:
            if info.issym() or info.islnk():
                raise UsageError(f"{place}: {info.name} is a link; replace the archive by the original.")
            if info.isfile() and (member := archive.extractfile(info)):
                yield info.name, member.read()


def image_of(content: bytes, place: str) -> Image.Image:
    """Return a JPEG or PNG image in colours.

    :raises UsageError: it is none, or has more pixels than Pillow takes for safe.
    """
    with damaged(place, "an image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a camera wrote beside the image
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as opened:
            return opened.convert("RGB")
