"""One table of your own data, read from a file's bytes."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlpcl.benchmarks.folder._problems import Problems
from nlpcl.benchmarks.folder._tables import RawTable, of_arrow, of_records
from nlpcl.benchmarks.folder._task_files import READABLE, suffix_of
from nlpcl.errors import UsageError

LONE_RETURN = "a lone carriage return, which ends no line: take it out, or save the file with line feeds"
LONGEST_FIELD = 2**31 - 1
SEPARATORS = {"tab": "\t", ";": ";", ",": ",", "|": "|"}
"""Characters of separators that the option `separator` takes by name."""
OTHER_FORMATS = {
    b"\x1f\x8b": "compressed by gzip: let its name end with .gz",
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save it as .csv",
    b"PAR1": "a Parquet file: let its name end with .parquet",
}
"""First bytes of formats that hold no text, with the formats' names."""
NAMED_SEPARATORS = {"tab": "\t", r"\t": "\t"}


@dataclass(frozen=True)
class TextFormat:
    """How files of text are written.

    :param separator: of the fields of .csv and .tsv; None: a comma, and a tab.
    :param encoding: name of a codec; None means UTF-8, with or without a byte order mark.
    :raises UsageError: no single character, or no encoding that Python knows.
    """

    separator: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and (len(self.separator_character()) != 1 or self.separator in '"\r\n\0'):
            raise UsageError(f"separator takes one character, or tab, not {self.separator!r}.")
        try:
            " ".encode("utf-8" if self.encoding is None else self.encoding)
        except (LookupError, ValueError) as error:
            raise UsageError(f"encoding {self.encoding!r} is none that Python knows: try utf-8 or latin-1.") from error

    @property
    def codec(self) -> str:
        """The encoding, which for UTF-8 takes a byte order mark as none of the text."""
        name = codecs.lookup("utf-8" if self.encoding is None else self.encoding).name
        return "utf-8-sig" if name == "utf-8" else name

    def check_used(self, suffixes: Iterable[str]) -> None:
        """Refuse an option that says how files are written of which none was read.

        :param suffixes: of the files that were read.
        :raises UsageError: naming the option.
        """
        if self.separator is not None and not {".csv", ".tsv"} & set(suffixes):
            raise UsageError("separator is of .csv and .tsv files, and none was read: leave it out.")
        if self.encoding is not None and not set(suffixes) - {".parquet"}:
            raise UsageError("encoding is of text files, and none was read: leave it out.")

    def separator_character(self, default: str = ",") -> str:
        return default if self.separator is None else NAMED_SEPARATORS.get(self.separator, self.separator)


def parse(content: bytes, file: Path, form: TextFormat) -> RawTable:
    """Return the table that a file holds.

    :param content: the file's bytes.
    :param file: its name says the format.
    :raises UsageError: it is none; the sentence names the file and the line.
    """
    suffix, place = suffix_of(file), str(file)
    if not suffix:
        raise UsageError(f"{place} cannot be read: its name must end with {READABLE}.")
    if suffix == ".parquet":
        return _parquet(content, place)
    if file.name.lower().endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{place} is damaged ({error}).") from error
    for start, kind in OTHER_FORMATS.items():
        if content.startswith(start):
            raise UsageError(f"{place} is {kind}.")
    text = _decoded(content, place, form)
    if suffix == ".csv":
        return _csv(text, place, form.separator_character(","))
    if suffix == ".tsv":
        return _tsv(text, place, form.separator_character("\t"))
    return _json_lines(text, place) if suffix == ".jsonl" else _json(text, place)


def _decoded(content: bytes, place: str, form: TextFormat) -> str:
    try:
        text = content.decode(form.codec)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        hint = (
            f"not {form.encoding} text"
            if form.encoding
            else "not UTF-8 text: name its encoding, as in encoding=latin-1"
        )
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise UsageError(f"{place}, line {line}: {'UTF-16 text: say encoding=utf-16' if utf16 else hint}.") from error
    text = text.removeprefix("\ufeff")  # utf-16-le and others leave the byte order mark in
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise UsageError(f"{place}, line {line}: a NUL character; if it is UTF-16 text, say encoding=utf-16.")
    return text


def _delimited(
    place: str, fields: Sequence[Sequence[str]], starts: Sequence[int], separator: str, remarks: Sequence[str] = ()
) -> RawTable:
    """The first row names the columns; each of the others must have as many fields."""
    if not fields:
        raise UsageError(f"{place} cannot be read: it is empty.")
    header, *body = fields
    width = len(header)
    if width == 1:
        inner = next((name for name, mark in SEPARATORS.items() if mark in header[0]), None)
        hint = "the first line names the columns, text and label" if inner is None else f"say separator={inner}"
        raise UsageError(f"{place}: the header is one field, {header[0][:80]!r}: {hint}.")
    if set(map(len, body)) - {width}:
        wrong: dict[int, list[int]] = {}
        for row, start in zip(body, starts[1:], strict=True):
            if len(row) != width:
                wrong.setdefault(len(row), []).append(start)
        problems = Problems()
        for count, rows in sorted(wrong.items(), key=lambda item: item[1]):
            has = f"{count} {'field' if count == 1 else 'fields'} separated by {separator!r}, not {width} as the header"
            problems.add_rows(place, has, rows, len(body))
        problems.check(place)
    return RawTable(place, header, lambda i: [row[i] for row in body], starts[1:], lines=True, remarks=remarks)


def _csv(text: str, place: str, separator: str) -> RawTable:
    fields: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        fields.extend(reader)  # keeps the rows before a fault
    except csv.Error as error:
        start = _starts(fields)[-1]
        raise UsageError(f"{place}, {_csv_fault(str(error), start, reader.line_num)}.") from error
    finally:
        csv.field_size_limit(limit)
    one_line_each = len(fields) == reader.line_num
    starts = list(range(1, len(fields) + 2)) if one_line_each else _starts(fields)
    ends = [start - 1 for start in starts[1:]]
    if not all(fields):  # blank lines
        kept = [i for i, row in enumerate(fields) if row]
        fields, starts, ends = [fields[i] for i in kept], [starts[i] for i in kept], [ends[i] for i in kept]
    table = _delimited(place, fields, starts[: len(fields)], separator)
    if not one_line_each:
        _refuse_swallowed_rows(text, place, separator, fields, starts, ends)
    return table


def _starts(fields: Sequence[Sequence[str]]) -> list[int]:
    """Return the line where each row begins, and that of the row which would come next."""
    return list(itertools.accumulate((1 + sum(value.count("\n") for value in row) for row in fields), initial=1))


def _csv_fault(message: str, start: int, line: int) -> str:
    """Say in our words what Python's csv reader found."""
    if "unexpected end" in message:
        return f"row {start}: a quotation mark opens a field that nothing closes"
    if "new-line character" in message:
        return f"row {line}: {LONE_RETURN}"
    if "expected after" in message:
        return f'row {start}: a quotation mark within a quoted field must be doubled ("")'
    return f"row {start}: {message}"


def _refuse_swallowed_rows(
    text: str,
    place: str,
    separator: str,
    fields: Sequence[Sequence[str]],
    starts: Sequence[int],
    ends: Sequence[int],
) -> None:
    """Refuse a row over several lines of which one, by itself, looks like a row.

    A quotation mark that opens one text and another that closes a later one make one row of what is between. A line
    looks like a row if it has a field for every column, and its labels are those of other rows.
    """
    single = [row for row, start, end in zip(fields, starts, ends, strict=False) if start == end][1:]
    known = [set(column) for column in zip(*single, strict=True)]
    labels = [i for i, words in enumerate(known) if len(words) < 1 + len(single) / 2]  # columns whose words repeat
    lines = text.split("\n")
    for row, start, end in zip(fields, starts, ends, strict=False):
        if start == end or not labels:
            continue
        broken = [i for i, value in enumerate(row) if "\n" in value]
        for number in range(start, end + 1):
            parts = lines[number - 1].rstrip("\r").replace('"', "").split(separator)
            # What stands before the field on its first line, and after it on its last, is a part of this row anyway.
            inside = [i for i in labels if (number > start or i > broken[0]) and (number < end or i < broken[-1])]
            if inside and len(parts) == len(row) and all(parts[i] in known[i] for i in labels):
                raise UsageError(
                    f"{place}, row {start}: a quotation mark takes in line {number}, which looks like a row of its "
                    'own: double the quotation marks of texts (""), or write the file as .jsonl or .parquet.'
                )


def _tsv(text: str, place: str, separator: str) -> RawTable:
    """Fields hold no separator and no line break, and a quotation mark is a character as any other."""
    lines = text.split("\n")
    if "\r" in text:
        lines = [line.rstrip("\r") for line in lines]
        if lone := [number for number, line in enumerate(lines, start=1) if "\r" in line]:
            problems = Problems()
            problems.add_rows(place, LONE_RETURN, lone, len(lines) - 1)
            problems.check(place)
    starts = [number for number, line in enumerate(lines, start=1) if line]
    fields = [line.split(separator) for line in lines if line]
    doubled = sum('""' in line for line in lines) if '""' in text else 0
    remark = f'{place}: {doubled} lines hold ""; a .tsv file knows no quoting, so both marks are part of the text'
    return _delimited(place, fields, starts, separator, [remark] if doubled else [])


def _json_lines(text: str, place: str) -> RawTable:
    # Not splitlines(): texts may hold characters that it takes for the end of a line.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UsageError(f"{place} cannot be read: it is empty.")
    records = []
    for number, line in lines:
        record = _loaded(line, f"{place}, line {number}")
        if not isinstance(record, dict):
            raise UsageError(f"{place}, line {number}: not an object with text and label.")
        records.append(record)
    return of_records(records, place, [number for number, _ in lines], lines=True)


def _json(text: str, place: str) -> RawTable:
    try:
        records = _loaded(text, place)
    except UsageError:
        # `datasets` and others write lines of objects under this name.
        first = text.strip().partition("\n")[0].rstrip()
        if not re.fullmatch(r"\{.*\}", first):
            raise
        return _json_lines(text, place)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UsageError(f"{place} holds no list of objects.")
    return of_records(records, place, range(1, len(records) + 1))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return record


class _Twice(Exception):
    """A key that an object has twice."""


DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _loaded(text: str, place: str) -> Any:
    try:
        return DECODER.decode(text)
    except _Twice as error:
        raise UsageError(f"{place}: an object has the key {str(error)!r} twice.") from error
    except RecursionError as error:
        raise UsageError(f"{place}: nested too deeply.") from error
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text else ""
        raise UsageError(f"{place}{line}: not JSON ({error.msg}, column {error.colno}).") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise UsageError(f"{place}: not JSON ({str(error).partition(':')[0]}).") from error


def _parquet(content: bytes, place: str) -> RawTable:
    import pyarrow
    import pyarrow.parquet

    try:
        # Not read_table(), which refuses two columns of one name even if neither is read.
        return of_arrow(pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read(), place)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{place} cannot be read as Parquet ({str(error).strip().splitlines()[0]}).") from error
