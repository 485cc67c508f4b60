"""Read own data, from a folder, a file or objects in memory, into tasks."""

from __future__ import annotations

import hashlib
import numbers
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nlpcl.benchmarks._labels import alike
from nlpcl.benchmarks.folder import _task_files as task_files
from nlpcl.benchmarks.folder._formats import parse
from nlpcl.benchmarks.folder._options import FolderOptions
from nlpcl.benchmarks.folder._problems import Problems, listed
from nlpcl.benchmarks.folder._rows import Part, select_columns, words_in
from nlpcl.benchmarks.folder._tables import RawTable, of_arrow, of_columns, of_records
from nlpcl.benchmarks.folder._task_files import ALL_TASKS, part_named
from nlpcl.config.files import read_plain
from nlpcl.errors import UsageError

TAKEN = (
    "a pandas or polars frame, a datasets.Dataset, a pyarrow table, a list of objects, lists by column name, or the "
    f"path of a file ({task_files.READABLE})"
)
Parts = Mapping[str, Part | None]
"""The parts of a task; None stands for one that is there and cannot be read."""
Tables = dict[str, RawTable | None]
LONGEST = 200
"""Characters of a path that a message shows."""
PARTS_ARE = "parts are train, valid (or validation, dev, val) and test"


@dataclass
class Reader:
    """Reads tasks of data in any shape.

    :param options: the names of the columns, and how text files are written.
    :param problems: gets what is wrong with the data.
    :param files: SHA-256 of each file that was read so far.
    :param remarks: what a user should know of what was read so far.
    """

    options: FolderOptions
    problems: Problems
    files: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, None] = field(default_factory=dict)

    def source(self, data: Any) -> tuple[list[str], Callable[[str], Parts]]:
        """Return the names of the tasks in `data`, in their order, and what reads the parts of one.

        :raises UsageError: it is of no type that can be read, or names no tasks.
        """
        if isinstance(data, (str, os.PathLike)):
            if not os.path.exists(path := os.path.expanduser(data)):
                raise UsageError(f"there is no folder or file {str(data)[:LONGEST]!r}.")
            return self._of_path(Path(path))
        if self.options.task_column is not None:
            return self._of_tables(self._parts_of("", data))
        tasks = self._tasks(data)
        return list(tasks), lambda name: self._selected(self._parts_of(name, tasks[name]))

    def _of_path(self, root: Path) -> tuple[list[str], Callable[[str], Parts]]:
        folders = task_files.layout(root, self.problems)
        if self.options.task_column is None:
            if ALL_TASKS in folders:
                tables = [table for table in self._files(root, ALL_TASKS).values() if table is not None]
                self.problems.check(str(root))
                raise UsageError(_one_table(tables[0]))
            return list(folders), lambda name: self._selected(self._files(folders[name], name))
        if ALL_TASKS not in folders:
            raise UsageError(
                f"{root} holds a folder a task ({listed(folders)}), so there is no task_column: leave it out."
            )
        return self._of_tables(self._files(root, ALL_TASKS))

    def _files(self, folder: Path, task: str) -> Tables:
        """Read the parts in a folder, or a single file.

        :param task: begins the names under which the files' SHA-256 are kept.
        """
        tables: Tables = {}
        for part, file in task_files.parts_in(folder, self.problems).items():
            tables[part] = None
            with self.problems.caught():
                tables[part] = self._file(file, task_files.key_of(task, file, folder))
        return tables

    def _file(self, file: Path, key: str) -> RawTable:
        """Read a file once: what is hashed is what is parsed."""
        content = read_plain(file)
        self.files[key] = hashlib.sha256(content).hexdigest()
        return parse(content, file, self.options)

    def _of_tables(self, tables: Tables) -> tuple[list[str], Callable[[str], Parts]]:
        """Deal the rows out to the tasks that they name, in the order in which these first occur."""
        parts = self._selected(tables)
        unreadable = [split for split, part in parts.items() if part is None]
        tasks: dict[str, dict[str, Part | None]] = defaultdict(lambda: dict.fromkeys(unreadable))
        for split, part in parts.items():
            if part is None:
                continue
            names = pd.Series(words_in(part, "task", self.problems), index=part.frame.index, dtype=object)
            for name, frame in part.frame.groupby(names, sort=False):
                tasks[str(name)][split] = replace(part, place=f"{part.place}, task {name}", frame=frame)
        for group in alike(tasks):
            self.problems.append(
                f"tasks {' and '.join(map(repr, group))} differ only by blanks, case or notation: write them alike"
            )
        return list(tasks), tasks.__getitem__

    def _tasks(self, data: Any) -> dict[str, Any]:
        """Return the tasks of data in memory by name.

        :raises UsageError: they are none, or one table that names no tasks.
        """
        if isinstance(data, (list, tuple)):
            if data and all(isinstance(row, Mapping) and not _parts_named(row) for row in data):
                raise UsageError("a list of objects is one table: say which column names the tasks, task_column=...")
            return {f"task{i}": task for i, task in enumerate(data)}
        if _is_table(data, self.options):
            raise UsageError(_one_table(self._table(data, "the table", "")))
        if not isinstance(data, Mapping):
            raise UsageError(_refusal(data, "your data", f"give parts by task name, a folder, or {TAKEN}"))
        named = _parts_named(data)
        of_tasks = any(isinstance(value, Mapping) and _parts_named(value) for value in data.values())
        if data and len(named) == len(data) and not of_tasks:
            raise UsageError(
                f"{', '.join(named)} are parts, not tasks: give {{'task': {{'train': ..., 'test': ...}}}}, or say "
                "which column names the tasks, task_column=..."
            )
        tasks: dict[str, Any] = {}
        for key, value in data.items():
            name = str(key)
            usable = isinstance(key, str) or (isinstance(key, numbers.Integral) and not isinstance(key, bool))
            if not usable or not name.strip():
                raise UsageError(f"a task's name is a text or a whole number, not {key!r}.")
            if name in tasks:
                raise UsageError(f"two tasks are named {name!r}.")
            tasks[name] = value
        return tasks

    def _selected(self, tables: Tables) -> Parts:
        parts: dict[str, Part | None] = {}
        for split, table in tables.items():
            parts[split] = None
            if table is not None:
                self.remarks.update(dict.fromkeys(table.remarks))
                parts[split] = select_columns(table, self.options, self.problems)
                if unread := self.options.unread(table.columns):
                    self.remarks[f"columns that are not read: {', '.join(unread)}"] = None
        return parts

    def _parts_of(self, name: str, value: Any) -> Tables:
        """Return the tables of a task, or of all tasks (`name` is then "")."""
        task = f"task {name}" if name else "the table"
        tables: Tables = {}
        if isinstance(value, (str, os.PathLike)) and os.path.isdir(path := os.path.expanduser(value)):
            return self._files(Path(path), name)
        if isinstance(value, (list, tuple)) and value and not _is_row(value[0], self.options):
            self.problems.append(
                f"{task} is a {type(value).__name__}, and its row 1 is not an object with text and label: a task is "
                "{'train': ..., 'test': ...}, or a table"
            )
            return {"train": None, "test": None}
        if not isinstance(value, Mapping) or _is_table(value, self.options):
            tables["train"] = None
            with self.problems.caught():
                tables["train"] = self._table(value, task, name)
            return tables
        if not _parts_named(value):
            keys = ", ".join(map(str, list(value)[:10])) or "nothing"
            self.problems.append(f"{task} holds {keys}, and no part: {PARTS_ARE}")
            return {"train": None, "test": None}
        for key, part in value.items():
            split = part_named(str(key))
            if split is None:
                self.problems.append(f"{task}: {key} is not read, take it out: {PARTS_ARE}")
            elif split in tables:
                self.problems.append(f"{task}: {key} is a second part {split}: keep one")
            else:
                tables[split] = None
                with self.problems.caught():
                    tables[split] = self._table(part, f"{task}, {key}", f"{name}/{split}".lstrip("/"))
        return tables

    def _table(self, value: Any, place: str, task: str) -> RawTable:
        """Return a part in memory, or the file that it names, as a table.

        :param task: as in `_files`.
        :raises UsageError: it is of another type, or no table.
        """
        if isinstance(value, (str, os.PathLike)):
            path = Path(os.path.expanduser(value))
            if not os.path.isfile(path):  # not path.is_file(), which raises if the name is too long
                raise UsageError(f"{place}: there is no file {str(value)[:LONGEST]!r}.")
            return self._file(path, task_files.key_of(task, path, path.parent))
        if isinstance(value, Mapping):
            return of_columns(value, place)
        if isinstance(value, (list, tuple)):
            return of_records(value, place, range(1, len(value) + 1))
        make = next((TABLES[kind] for cls in type(value).__mro__ if (kind := _kind(cls)) in TABLES), None)
        if make is None:
            raise UsageError(_refusal(value, place, f"give {TAKEN}"))
        return make(value, place)


def _one_table(table: RawTable) -> str:
    return (
        f"{table.place} holds all tasks: say which column names them, task_column=..., or give each by its name, as a "
        f"folder <task>/train.csv or as {{'task': {{'train': ..., 'test': ...}}}}. The columns are "
        f"{', '.join(table.columns)}."
    )


def _parts_named(value: Mapping[Any, Any]) -> list[str]:
    return [str(key) for key in value if part_named(str(key))]


def _kind(cls: type) -> str:
    """Return the library that a class comes from, and its name: `datasets.Dataset`."""
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def _of_frame(frame: pd.DataFrame, place: str) -> RawTable:
    names = [str(name) for name in frame.columns]
    return RawTable(place, names, lambda i: frame.iloc[:, i].tolist(), range(1, len(frame) + 1))


def _of_dataset(data: Any, place: str) -> RawTable:
    if data.format["type"] == "custom":
        raise UsageError(
            f"{place}: its with_transform would not be applied: use map(), or take it off by reset_format()."
        )
    return of_arrow(data.with_format("arrow")[:], place)


TABLES: dict[str, Callable[[Any, str], RawTable]] = {
    "pandas.DataFrame": _of_frame,
    "datasets.Dataset": _of_dataset,
    "pyarrow.Table": of_arrow,
    "polars.DataFrame": lambda data, place: of_columns(data.to_dict(as_series=False), place),
}
"""By library and class, so that none is imported which the user has not."""
HINTS = {
    "builtins.NoneType": "leave it out",
    "builtins.generator": "make a list of it",
    "datasets.IterableDataset": "it is read as a stream and has no length, so load it without streaming",
    "polars.LazyFrame": "call its collect() first",
    "pandas.Series": "a table has the columns text and label",
}


def _is_table(value: Any, options: FolderOptions) -> bool:
    if isinstance(value, Mapping):
        texts = value.get(options.text.partition(".")[0])
        return not _parts_named(value) and texts is not None and not isinstance(texts, Mapping)
    return any(_kind(cls) in TABLES for cls in type(value).__mro__)


def _is_row(value: Any, options: FolderOptions) -> bool:
    if not isinstance(value, Mapping):
        return False
    return not _parts_named(value) and not isinstance(value.get(options.text), (list, tuple))


def _refusal(value: Any, place: str, otherwise: str) -> str:
    kind = _kind(type(value))
    return f"{place} cannot be of type {kind.removeprefix('builtins.')}: {HINTS.get(kind, otherwise)}."
