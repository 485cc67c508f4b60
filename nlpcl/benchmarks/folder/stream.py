"""Your own data as a stream: a folder or file of CSV, TSV, JSON or Parquet, or data frames and `datasets` in memory."""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import text_benchmark_from_tasks
from nlpcl.benchmarks._files.download import data_root
from nlpcl.benchmarks.folder._draws import Size, check_size
from nlpcl.benchmarks.folder._formats import TextFormat
from nlpcl.benchmarks.folder._notes import drawn, label_conflicts, missing_parts, notes_on
from nlpcl.benchmarks.folder._problems import Problems
from nlpcl.benchmarks.folder._rows import Columns
from nlpcl.benchmarks.folder._sources import Reader
from nlpcl.benchmarks.folder._task_files import ALL_TASKS, files_of, layout, suffix_of
from nlpcl.benchmarks.folder._text_tasks import Draws, text_task
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError, suggest
from nlpcl.ranges import Since
from nlpcl.registry import SCENARIOS, register_benchmark

log = logging.getLogger(__name__)


def text_benchmark(
    tasks: Any,
    *,
    name: str = "text",
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    subset: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    task_column: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    test_size: Size | None = None,
    valid_size: Size | None = None,
) -> CLScenario[Any]:
    """Make a benchmark of your own data, one experience per task.

    A table is a pandas or polars frame, a `datasets.Dataset`, a pyarrow table, a list of objects, lists by column
    name, or the path of a file (.csv, .tsv, .jsonl, .json, each also .gz, or .parquet). It has the columns `text`,
    `label` and, for pairs of texts, `text_pair`. Labels are texts, whole numbers or booleans; a task's label set is
    what occurs in its training part, numbers by their value, words by the alphabet. Nothing is dropped or repaired: all
    rows, columns and files that cannot be used are refused at once, with their places. What may spoil a result without
    being wrong, as texts that occur both in training and in test, is in the benchmark's `notes`.

    :param tasks: by name the parts `train`, `valid` (or `validation`, `dev`, `val`; may be missing) and `test`, each a
        table, so a `DatasetDict` will do; or a folder with one folder per task that holds `train.csv` and so on; or,
        with `task_column`, one table, its parts, or the file or folder that holds them.
    :param name: the benchmark's name.
    :param scenario: `til`, `dil` or `cil`.
    :param order: 0 for the order of the tasks as they are (of a folder: by name), `seed:N`, or the names of the tasks.
    :param tokenizer: an encoder's name, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param subset: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of the draws.
    :param text_column: the column of texts, or `a.b` for the field b of the objects in column a; None: `text`.
    :param text_pair_column: that of second texts; None: `text_pair`, where there is one.
    :param label_column: that of labels; None: `label`.
    :param task_column: that of the names of tasks, where one table holds all of them.
    :param separator: what separates the fields of .csv and .tsv files; None: a comma, and a tab.
    :param encoding: that of text files; None: UTF-8.
    :param test_size: where there is no test part it is drawn from the training part, class by class: a share below 1
        or a number of examples per task.
    :param valid_size: the same of a validation part; None: a tenth of the training part.
    :raises UsageError: the data cannot be used, or an argument is wrong.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"unknown scenario {scenario!r}. {suggest(str(scenario), SCENARIOS)}")
    cut = 1 if train_size is None else train_size
    for option, value, least in (("seed", seed, 0), ("max_length", max_length, 1), ("train_size", cut, 1)):
        if not _is_whole(value) or value < least:
            raise UsageError(f"{option} takes a whole number of at least {least}, not {value!r}.")
    for option, choice in (("order", order), ("subset", [] if subset is None else subset)):
        names_only = isinstance(choice, Sequence) and all(isinstance(task, str) for task in choice)
        if not _is_whole(choice) and not names_only:
            raise UsageError(f"{option} takes a whole number or names of tasks, not {choice!r}.")
    check_size("test_size", test_size)
    check_size("valid_size", valid_size)
    columns = Columns(text_column, text_pair_column, label_column, task_column)
    problems = Problems()
    form = TextFormat(separator, encoding)
    source = Reader(columns, form, problems).source(tasks)
    place = str(tasks) if isinstance(tasks, (str, os.PathLike)) else "the data"
    if not source.names:
        problems.check(place)
        raise UsageError(f"{name}: a stream needs at least one task.")
    names = order_tasks([source.names], order, subset)
    draws = Draws(test_size, valid_size, train_size, seed)
    parts = {task: source.parts(task) for task in names}
    lacking = {split: [task for task in names if split not in parts[task]] for split in ("train", "valid", "test")}
    problems.extend(missing_parts(lacking["train"], lacking["test"] if test_size is None else []))
    made = [text_task(task, parts[task], draws, problems) for task in names]
    ready = [task for task in made if task is not None]
    problems.extend(label_conflicts(ready, scenario))
    problems.check(place)
    form.check_used({suffix_of(Path(file)) for file in source.files})

    notes = list(source.remarks)
    for split, size in (("test", test_size), ("valid", valid_size)):
        if lacking[split]:
            notes.append(drawn(split, lacking[split], size, seed, len(names)))
        elif size is not None:
            raise UsageError(f"{split}_size draws a missing part, and every task has a part {split}: leave it out.")
    if test_size is not None:
        log.warning("%s: %s", name, drawn("test", lacking["test"], test_size, seed, len(names)))
    benchmark = text_benchmark_from_tasks(
        ready,
        name=name,
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        files=source.files,
    )
    benchmark.notes = notes + notes_on(ready, scenario)
    return benchmark


def _own_files(root: Path, spec: Any) -> dict[str, str]:
    """Return the SHA-256 of the files of the tasks that a run learns."""
    folders = [name for name in layout(root, Problems()) if name != ALL_TASKS]
    return files_of(root, order_tasks([folders], spec.order, spec.tasks) if folders else None)


@register_benchmark(
    "folder",
    title="your own data, from a folder or a file of CSV, TSV, JSON or Parquet",
    source="--data-root DIR with DIR/<task>/train.csv, test.csv and, if you like, valid.csv; or --data-root FILE "
    "--set task_column=COLUMN",
    licence="yours",
    citation="yours",
    scenarios=("til", "dil", "cil"),
    own_files=_own_files,
)
def Folder(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    text_column: Annotated[str | None, Since(2)] = None,
    text_pair_column: Annotated[str | None, Since(2)] = None,
    label_column: Annotated[str | None, Since(2)] = None,
    task_column: Annotated[str | None, Since(2)] = None,
    separator: Annotated[str | None, Since(2)] = None,
    encoding: Annotated[str | None, Since(2)] = None,
    test_size: Annotated[Size | None, Since(2)] = None,
    valid_size: Annotated[Size | None, Since(2)] = None,
) -> CLScenario[Any]:
    """Make the benchmark of the folder or file `root`, for the command line; see `text_benchmark`.

    :param root: folder or file; None means the one that NLPCL_DATA names.
    :param text_column: the column of texts, or a.b for the field b of the objects in column a; null: text.
    :param text_pair_column: that of second texts; null: text_pair, where there is one.
    :param label_column: that of labels; null: label.
    :param task_column: that of the names of tasks, where one file holds all of them.
    :param separator: one character between the fields of .csv and .tsv files, or tab; null: a comma, and a tab.
    :param encoding: that of text files; null: UTF-8.
    :param test_size: share or number of training examples that test where a task has no test part.
    :param valid_size: the same for validation; null: a tenth.
    :raises UsageError: as `text_benchmark`, or nothing is named.
    """
    place = data_root(root, file=True)
    if place is None:
        raise UsageError(
            "say where your data are: --data-root DIR with DIR/<task>/train.csv and test.csv, or --data-root FILE with "
            "--set task_column=COLUMN."
        )
    return text_benchmark(
        place,
        name="folder",
        scenario=scenario,
        order=order,
        tokenizer=tokenizer,
        max_length=max_length,
        subset=tasks,
        train_size=train_size,
        seed=seed,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        task_column=task_column,
        separator=separator,
        encoding=encoding,
        test_size=test_size,
        valid_size=valid_size,
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
