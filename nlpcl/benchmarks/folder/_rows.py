"""Rows of your own data, judged: texts, labels and the names of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pandas as pd

from nlpcl.benchmarks._labels import NotALabel, word_of
from nlpcl.benchmarks.folder._options import FolderOptions
from nlpcl.benchmarks.folder._problems import Problems
from nlpcl.benchmarks.folder._tables import RawTable
from nlpcl.errors import UsageError, fold, suggest

# Names under which public data sets keep what is called text, text_pair and label here; offered, never assumed.
USUAL = {
    "text_column": (
        *("sentence", "content", "review", "document", "body", "tweet", "comment", "question", "utterance", "message"),
        *("sentence1", "premise", "question1", "input", "headline", "title"),
    ),
    "text_pair_column": ("sentence2", "hypothesis", "question2", "pair", "aspect", "term", "answer"),
    "label_column": (
        "labels",
        "target",
        "class",
        "category",
        "intent",
        "sentiment",
        "gold_label",
        "rating",
        "stars",
        "y",
    ),
    "task_column": ("domain", "category", "genre", "dataset", "source", "topic"),
}


@dataclass(frozen=True)
class Part:
    """One part of one task: `train`, `valid` or `test`.

    :param place: the file, or task and part, for messages.
    :param frame: columns `text`, `text_pair` (may be missing), `label` and `task` (may be missing), by row number.
    :param lines: whether row numbers are lines of a file.
    :param classes: the names that numbers stand for, by column.
    """

    place: str
    frame: pd.DataFrame
    lines: bool
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def report(self, faults: Mapping[str, Sequence[int]], problems: Problems) -> None:
        """Collect faults, each with the positions of its rows."""
        rows = {fault: [int(self.frame.index[i]) for i in positions] for fault, positions in faults.items()}
        problems.add_rows(self.place, rows, len(self.frame), lines=self.lines)


def select_columns(table: RawTable, options: FolderOptions, problems: Problems) -> Part | None:
    """Return the columns of a table that are read; None if one is missing.

    :param problems: gets what is missing or there twice.
    """
    wanted = {option.removesuffix("_column"): name for option, name in options.columns().items()}
    if options.text_pair_column is None and "text_pair" in table.columns and options.text != "text_pair":
        wanted["text_pair"] = "text_pair"
    before = len(problems)
    values = {}
    for key, name in wanted.items():
        with problems.caught():
            values[key] = _column(table, name, f"{key}_column")
    if len(problems) > before:
        return None
    if not len(table.rows):
        problems.append(f"{table.place}: there are no rows")
        return None
    frame = pd.DataFrame({key: pd.Series(column, dtype=object) for key, column in values.items()})
    frame.index = pd.Index(table.rows)
    classes = {key: table.classes[name] for key, name in wanted.items() if name in table.classes}
    return Part(table.place, frame, table.lines, classes)


def _column(table: RawTable, name: str, option: str) -> list[Any]:
    """Return the values of a column, or of a field of its objects (`a.b`).

    :raises UsageError: there is none, or more than one.
    """
    columns = list(table.columns)
    count = columns.count(name)
    if count > 1:
        raise UsageError(f"{table.place}: column {name!r} is there {'twice' if count == 2 else f'{count} times'}.")
    if count:
        return table.values(columns.index(name))
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        outer, path = ".".join(parts[:i]), parts[i:]
        if columns.count(outer) == 1:
            values = table.values(columns.index(outer))
            fields = [_field(value, path) for value in values]
            if any(value is not None for value in fields):
                return fields
            raise UsageError(f"{table.place}: {_missing_field(values, outer, path)}")
    raise UsageError(f"{table.place}: column {name!r} is missing; {_hint(table, name, option)}")


def _field(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _missing_field(values: Sequence[Any], name: str, path: Sequence[str]) -> str:
    """Say which field of objects in the column `name` is missing, and which there are in its place."""
    for key in path:
        keys = {str(key) for value in values if isinstance(value, Mapping) for key in value}
        if key not in keys:
            return f"no {name!r} has a field {key!r}. {suggest(key, keys) if keys else 'It holds no objects.'}"
        values = [_field(value, [key]) for value in values]
        name = f"{name}.{key}"
    return f"{name!r} is empty in every row."


def _hint(table: RawTable, name: str, option: str) -> str:
    """Say which columns there are and which of them may be meant."""
    names = list(table.columns)
    there = f"there are {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}" if names else "there are none"
    usual = [column for column in names if fold(column) in (fold(name), *map(fold, USUAL[option]))]
    if usual:
        return f"{there}. Perhaps {option}={usual[0]}?"
    if name in ("text", "label"):
        first_line = ", and the first line of a file must name them" if table.lines else ""
        return f"{there}: name it with {option}={first_line}"
    return f"{there}. {suggest(name, names)}"


def words_in(part: Part, column: str, problems: Problems) -> list[str | None]:
    """Return the labels, tasks or texts of a part as text; None for those that are none.

    :param column: `label`, `task`, `text` or `text_pair`.
    :param problems: gets the rows without one.
    """
    values = part.frame[column].tolist()
    judged: Callable[[Any], str | NotALabel] = partial(_judged, column=column, classes=part.classes.get(column, ()))
    kinds = set(map(type, values))
    if column in ("label", "task") and len(kinds) == 1 and kinds <= {str, int, bool}:
        judged = cache(judged)  # few values, in many rows; those of one of these types that are equal are one word
    words: list[str | None] = []
    faults: dict[str, tuple[str, list[int]]] = {}
    for i, word in enumerate(map(judged, values)):
        if isinstance(word, NotALabel):
            words.append(None)
            faults.setdefault(word.kind, (str(word), []))[1].append(i)
        else:
            words.append(word)
    part.report(dict(faults.values()), problems)
    return words


def _judged(value: Any, column: str, classes: Sequence[str]) -> str | NotALabel:
    try:
        return word_of(value, column, classes)
    except NotALabel as error:
        return error
