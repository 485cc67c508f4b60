"""One table of your own data, read from a file's bytes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import accumulate, compress
from pathlib import Path

from nlpcl.benchmarks._files.content import json_of, numbered_lines, text_of, unzipped
from nlpcl.benchmarks.folder._options import FolderOptions
from nlpcl.benchmarks.folder._problems import refuse_rows
from nlpcl.benchmarks.folder._tables import RawTable, of_arrow, of_records
from nlpcl.benchmarks.folder._task_files import READABLE, suffix_of
from nlpcl.errors import UsageError

LONE_RETURN = "a lone carriage return, which ends no line: take it out, or save the file with line feeds"
LONGEST_FIELD = 2**31 - 1
CSV_FAULTS = {
    "unexpected end": "a quotation mark opens a field that nothing closes",
    "new-line character": LONE_RETURN,
    "expected after": 'a quotation mark within a quoted field must be doubled ("")',
}
"""Faults that Python's csv reader names, in our words."""
OTHER_FORMATS = {
    b"\x1f\x8b": "compressed by gzip: let its name end with .gz",
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save it as .csv",
    b"PAR1": "a Parquet file: let its name end with .parquet",
}
"""First bytes of formats that hold no text, with the formats' names."""


def parse(content: bytes, file: Path, options: FolderOptions) -> RawTable:
    """Return the table that a file holds.

    :param content: the file's bytes.
    :param file: its name says the format.
    :param options: say how text is written.
    :raises UsageError: it is none; the sentence names the file and the line.
    """
    suffix, place = suffix_of(file), str(file)
    if not suffix:
        raise UsageError(f"{place} cannot be read: its name must end with {READABLE}.")
    if suffix == ".parquet":
        return _parquet(content, place)
    if file.name.lower().endswith(".gz"):
        content = unzipped(content, place)
    for start, kind in OTHER_FORMATS.items():
        if content.startswith(start):
            raise UsageError(f"{place} is {kind}.")
    fault = f"not {options.encoding or 'UTF-8'} text: name its encoding, as in encoding=latin-1 or encoding=utf-16"
    of_nul = "a NUL character; if it is UTF-16 text, say encoding=utf-16"
    text = text_of(content, place, options.codec, fault=fault, of_nul=of_nul)
    if not text.strip():
        raise UsageError(f"{place} cannot be read: it is empty.")
    if suffix == ".csv":
        return _csv(text, place, options.separator_or(","))
    if suffix == ".tsv":
        return _tsv(text, place, options.separator_or("\t"))
    return _json_lines(text, place) if suffix == ".jsonl" else _json(text, place)


def _delimited(
    place: str, fields: Sequence[Sequence[str]], starts: Sequence[int], separator: str, remarks: Sequence[str] = ()
) -> RawTable:
    """The first row names the columns; each of the others must have as many fields."""
    header, *body = fields
    width = len(header)
    if width == 1:
        mark = next((mark for mark in "\t;,|" if mark in header[0]), None)
        hint = "the first line names the columns, text and label"
        if mark is not None:
            hint = "say separator=" + mark.replace("\t", "tab")
        raise UsageError(f"{place}: the header is one field, {header[0][:80]!r}: {hint}.")
    wrong: dict[str, list[int]] = {}
    for row, start in zip(body, starts[1:], strict=True):
        if len(row) != width:
            has = f"{len(row)} {'field' if len(row) == 1 else 'fields'} separated by {separator!r}"
            wrong.setdefault(f"{has}, not {width} as the header", []).append(start)
    refuse_rows(place, wrong, len(body))
    return RawTable(place, header, lambda i: [row[i] for row in body], starts[1:], lines=True, remarks=remarks)


def _csv(text: str, place: str, separator: str) -> RawTable:
    fields: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        fields.extend(reader)  # keeps the rows before a fault
    except csv.Error as error:
        fault = next((ours for theirs, ours in CSV_FAULTS.items() if theirs in str(error)), str(error))
        raise UsageError(f"{place}, row {_starts(fields)[-1]}: {fault}.") from error
    finally:
        csv.field_size_limit(limit)
    one_line_each = reader.line_num == len(fields)
    starts = list(compress(range(1, len(fields) + 1) if one_line_each else _starts(fields), fields))
    rows = list(filter(None, fields))  # blank lines hold no row
    table = _delimited(place, rows, starts, separator)
    if not one_line_each:
        _refuse_swallowed_rows(text, place, separator, rows, starts)
    return table


def _starts(fields: Sequence[Sequence[str]]) -> list[int]:
    """Return the line where each row begins, and that of the row which would come next."""
    return list(accumulate((1 + _breaks(row) for row in fields), initial=1))


def _breaks(row: Sequence[str]) -> int:
    return sum(value.count("\n") for value in row)


def _refuse_swallowed_rows(
    text: str, place: str, separator: str, rows: Sequence[Sequence[str]], starts: Sequence[int]
) -> None:
    """Refuse a row over several lines of which one, by itself, looks like a row.

    A quotation mark that opens one text and another that closes a later one make one row of what is between. A line
    looks like a row if it has a field for every column, and its labels are those of other rows.

    :param starts: line where each row begins.
    """
    single = [row for row in rows[1:] if not _breaks(row)]
    known = [set(column) for column in zip(*single, strict=True)]
    labels = [i for i, words in enumerate(known) if len(words) < 1 + len(single) / 2]  # columns whose words repeat
    lines = text.split("\n")
    for row, start in zip(rows, starts, strict=True) if labels else ():
        end = start + _breaks(row)
        broken = [i for i, value in enumerate(row) if "\n" in value]
        for number in range(start, end + 1) if broken else ():
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
        lone = [number for number, line in enumerate(lines, start=1) if "\r" in line]
        refuse_rows(place, {LONE_RETURN: lone}, len(lines) - 1)
    starts = [number for number, line in enumerate(lines, start=1) if line]
    fields = [line.split(separator) for line in lines if line]
    doubled = sum('""' in line for line in lines) if '""' in text else 0
    remark = f'{place}: {doubled} lines hold ""; a .tsv file knows no quoting, so both marks are part of the text'
    return _delimited(place, fields, starts, separator, [remark] if doubled else [])


def _json_lines(text: str, place: str) -> RawTable:
    lines = list(numbered_lines(text))
    records = [json_of(line, place, number) for number, line in lines]
    return of_records(records, place, [number for number, _ in lines], lines=True)


def _json(text: str, place: str) -> RawTable:
    try:
        records = json_of(text, place)
    except UsageError:
        # `datasets` and others write lines of objects under this name.
        first = text.strip().partition("\n")[0].rstrip()
        if not re.fullmatch(r"\{.*\}", first):
            raise
        return _json_lines(text, place)
    if not isinstance(records, list):
        raise UsageError(f"{place} holds no list of objects.")
    return of_records(records, place, range(1, len(records) + 1))


def _parquet(content: bytes, place: str) -> RawTable:
    import pyarrow
    import pyarrow.parquet

    try:
        # Not read_table(), which refuses two columns of one name even if neither is read.
        return of_arrow(pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read(), place)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{place} cannot be read as Parquet ({str(error).strip().splitlines()[0]}).") from error
