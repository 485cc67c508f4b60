"""The options of your own data."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field

from nlpcl.errors import UsageError
from nlpcl.options import Options, option
from nlpcl.ranges import Since

Size = Annotated[int, Field(strict=True, ge=1, le=10**9)] | Annotated[float, Field(strict=True, gt=0, lt=1)]
"""A number of examples, or a share of them."""
_OF_HOSTS = ("idna", "punycode")
"""Encodings of the names of hosts, whose decoders take a time that grows with the square of a text's length."""
_Text = Annotated[str | None, Since(2)]


class FolderOptions(Options):
    """How your own data are written, and what is drawn from them."""

    text_column: _Text = option(
        None, "the column of texts, or a.b for the field b of the objects in column a; null: text"
    )
    text_pair_column: _Text = option(None, "that of second texts; null: text_pair, where there is one")
    label_column: _Text = option(None, "that of labels; null: label")
    task_column: _Text = option(None, "that of the names of tasks, where one table holds all of them")
    separator: _Text = option(
        None, "one character between the fields of .csv and .tsv files, or tab; null: a comma, and a tab"
    )
    encoding: _Text = option(None, "that of text files; null: UTF-8")
    test_size: Annotated[Size | None, Since(2)] = option(
        None,
        "share or number of training examples that test where a task has no test part, drawn class by class; null: "
        "none are drawn",
    )
    valid_size: Annotated[Size | None, Since(2)] = option(None, "the same for validation; null: a tenth")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        by_column: dict[str, str] = {}
        for name, column in self.columns().items():
            if not column:
                raise UsageError(f"{name} takes the name of a column, not {column!r}.")
            if column in by_column:
                raise UsageError(f"{name} and {by_column[column]} are both {column!r}: they must be two columns.")
            by_column[column] = name
        if self.separator is not None and (len(self.separator_or("")) != 1 or self.separator in '"\r\n\0'):
            raise UsageError(f"separator takes one character, or tab, not {self.separator!r}.")
        try:
            if self.codec in _OF_HOSTS:
                raise LookupError
            " ".encode(self.codec)
        except (LookupError, ValueError) as error:
            raise UsageError(f"encoding {self.encoding!r} is none that Python knows: try utf-8 or latin-1.") from error

    def columns(self) -> dict[str, str]:
        """Return by option the column that must be there."""
        columns = {
            "text_column": self.text,
            "label_column": "label" if self.label_column is None else self.label_column,
            "text_pair_column": self.text_pair_column,
            "task_column": self.task_column,
        }
        return {name: column for name, column in columns.items() if column is not None}

    @property
    def codec(self) -> str:
        """The encoding, which for UTF-8 takes a byte order mark as none of the text."""
        name = codecs.lookup("utf-8" if self.encoding is None else self.encoding).name
        return "utf-8-sig" if name == "utf-8" else name

    def separator_or(self, default: str) -> str:
        """Return the character between fields."""
        return default if self.separator is None else {"tab": "\t", r"\t": "\t"}.get(self.separator, self.separator)

    def check_used(self, suffixes: Iterable[str]) -> None:
        """Refuse an option that says how files are written of which none was read.

        :param suffixes: of the files that were read.
        :raises UsageError: naming the option.
        """
        if self.separator is not None and not {".csv", ".tsv"} & set(suffixes):
            raise UsageError("separator is of .csv and .tsv files, and none was read: leave it out.")
        if self.encoding is not None and not set(suffixes) - {".parquet"}:
            raise UsageError("encoding is of text files, and none was read: leave it out.")

    @property
    def text(self) -> str:
        return "text" if self.text_column is None else self.text_column

    def unread(self, columns: Sequence[str]) -> list[str]:
        """Return those of a table's columns that nothing is read of."""
        read = {"text_pair", *self.columns().values()}
        outer = {name[:i] for name in read for i, character in enumerate(name) if character == "."}
        return [column for column in columns if column not in read | outer]
