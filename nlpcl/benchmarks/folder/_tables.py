"""One table of your own data, of objects in memory. Its rows are judged elsewhere (`_rows.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlpcl.benchmarks._files.content import json_of, text_of
from nlpcl.errors import UsageError


@dataclass(frozen=True)
class RawTable:
    """Rows as they were read.

    :param place: the file, or the part of a task, for messages.
    :param columns: names of the columns; one may occur twice.
    :param values: returns the values of the column at a position.
    :param rows: number of each row in messages.
    :param lines: whether these are lines of a file.
    :param classes: by column the names of the classes that its numbers stand for (`datasets.ClassLabel`).
    :param remarks: what a user should know of it.
    """

    place: str
    columns: Sequence[str]
    values: Callable[[int], list[Any]]
    rows: Sequence[int]
    lines: bool = False
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def of_records(records: Sequence[Any], place: str, rows: Sequence[int], lines: bool = False) -> RawTable:
    """Return the table of a list of objects; its columns are all keys that occur.

    :raises UsageError: one of them is no object.
    """
    columns: dict[Any, None] = {}
    for number, record in zip(rows, records, strict=True):
        if not isinstance(record, Mapping):
            raise UsageError(f"{place}, row {number}: not an object with text and label.")
        columns.update(dict.fromkeys(record))
    keys = list(columns)
    return RawTable(place, list(map(str, keys)), lambda i: [record.get(keys[i]) for record in records], rows, lines)


def of_columns(columns: Mapping[Any, Any], place: str) -> RawTable:
    """Return the table of lists by column name.

    :raises UsageError: a column is no list, or they differ in length.
    """
    lists = {str(name): _list(values, f"{place}: column {name!r}") for name, values in columns.items()}
    sizes = {name: len(values) for name, values in lists.items()}
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"{place}: the columns differ in length ({lengths}).")
    names, size = list(lists), next(iter(sizes.values()), 0)
    return RawTable(place, names, lambda i: lists[names[i]], range(1, size + 1))


def of_arrow(table: Any, place: str) -> RawTable:
    """Return a pyarrow table as one, with the class names that `datasets` wrote beside its columns.

    :raises UsageError: these are no names.
    """
    names = list(map(str, table.column_names))
    return RawTable(
        place,
        names,
        lambda i: _arrow_values(table, i, place),
        range(1, table.num_rows + 1),
        classes=_class_names((table.schema.metadata or {}).get(b"huggingface", b"{}"), f"{place}, metadata"),
    )


def _arrow_values(table: Any, position: int, place: str) -> list[Any]:
    import pyarrow

    try:
        values: list[Any] = table.column(position).to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        name, reason = table.column_names[position], str(error).strip().partition("\n")[0]
        raise UsageError(f"{place}: column {name!r} holds a value that cannot be read ({reason}).") from error
    return values


def _class_names(stored: bytes, place: str) -> dict[str, Sequence[str]]:
    """Return the names of the classes of each column, or field of objects (`a.b`), that `datasets` described.

    :raises UsageError: they are no JSON, or the names of classes are no list of texts.
    """
    features: Any = json_of(text_of(stored, place), place)
    for key in ("info", "features"):
        features = features.get(key) if isinstance(features, dict) else None
    classes: dict[str, Sequence[str]] = {}
    if isinstance(features, dict):
        # The column with the longest name is the one that `a.b.c` names, so it comes last.
        for column in sorted(features, key=len):
            classes.update(_class_names_of(features[column], column, place))
    return classes


def _class_names_of(feature: Any, path: str, place: str) -> dict[str, Sequence[str]]:
    if not isinstance(feature, dict):
        return {}
    if isinstance(feature.get("_type"), str):
        names = (feature.get("names") or ()) if feature["_type"] == "ClassLabel" else ()
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"{place}: the names of the classes of column {path!r} are no list of texts.")
        return {path: names}
    return {name: n for key in feature for name, n in _class_names_of(feature[key], f"{path}.{key}", place).items()}


def _list(values: Any, what: str) -> list[Any]:
    items: Any = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):  # or an array without dimensions
        raise UsageError(f"{what} is no list.")
    return list(items)
