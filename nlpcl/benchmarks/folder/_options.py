"""The options of your own data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from nlpcl.benchmarks.folder._draws import Size
from nlpcl.errors import UsageError
from nlpcl.options import Options, option
from nlpcl.ranges import Since

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
    def text(self) -> str:
        return "text" if self.text_column is None else self.text_column

    def unread(self, columns: Sequence[str]) -> list[str]:
        """Return those of a table's columns that nothing is read of."""
        read = {"text_pair", *self.columns().values()}
        outer = {name[:i] for name in read for i, character in enumerate(name) if character == "."}
        return [column for column in columns if column not in read | outer]
