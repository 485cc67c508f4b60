"""Your own data as a stream: a folder or file of CSV, TSV, JSON or Parquet, or data frames and `datasets` in memory."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlpcl.benchmarks._base import Benchmark
from nlpcl.benchmarks._files.download import data_root
from nlpcl.benchmarks._stream import StreamRequest, check_choice
from nlpcl.benchmarks._text import TextTask, text_benchmark_from_tasks, text_stream
from nlpcl.benchmarks.folder._notes import drawn, label_conflicts, missing_parts, notes_on
from nlpcl.benchmarks.folder._options import FolderOptions
from nlpcl.benchmarks.folder._problems import Problems
from nlpcl.benchmarks.folder._sources import Reader
from nlpcl.benchmarks.folder._task_files import ALL_TASKS, files_of, layout, suffix_of
from nlpcl.benchmarks.folder._text_tasks import text_task
from nlpcl.config.orders import Order, order_tasks
from nlpcl.errors import UsageError
from nlpcl.options import show_signature, with_options
from nlpcl.registry import benchmarks, check_scenario

_log = logging.getLogger(__name__)


def text_benchmark(
    tasks: Any,
    *,
    name: str = "text",
    scenario: str = "til",
    order: Order = 0,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    subset: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Benchmark:
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
    :param options: those of `FolderOptions`.
    :raises UsageError: the data cannot be used, or an argument is wrong.
    """
    check_scenario(benchmarks.get("folder"), scenario)
    if subset is not None:
        check_choice("subset", subset)
    request = StreamRequest(name, FolderOptions(**options), scenario, order, subset, train_size, seed, root=None)
    return text_benchmark_from_tasks(
        _read_tasks(tasks, request),
        name=name,
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        files=request.files,
        notes=request.notes,
    )


show_signature(text_benchmark, with_options(inspect.signature(text_benchmark), FolderOptions))


def _read_tasks(data: Any, request: StreamRequest[FolderOptions]) -> list[TextTask]:
    """Return the tasks in `data` that are asked for, or show all that is wrong with them.

    :param data: as `tasks` in `text_benchmark`.
    :raises UsageError: they cannot be used.
    """
    options = request.options
    problems = Problems()
    reader = Reader(options, problems)
    known, parts_of = reader.source(data)
    place = str(data) if isinstance(data, (str, os.PathLike)) else "the data"
    if not known:
        problems.check(place)
        raise UsageError(f"{request.name}: a stream needs at least one task.")
    names = request.choose([known])
    sizes = {"test": options.test_size, "valid": options.valid_size}
    parts = {task: parts_of(task) for task in names}
    lacking = {split: [task for task in names if split not in parts[task]] for split in ("train", "valid", "test")}
    problems.extend(missing_parts(lacking["train"], lacking["test"] if options.test_size is None else []))
    problems.extend(
        f"{task!r} cannot be a task: its name holds characters that do not print"
        for task in known
        if not task.isprintable()
    )
    read = [text_task(task, parts[task], request, problems) for task in names]
    tasks = [task for task in read if task is not None]
    problems.extend(f"{conflict}: write them alike" for conflict in label_conflicts(tasks, request.scenario))
    problems.check(place)
    options.check_used({suffix_of(Path(file)) for file in reader.files})

    request.files |= reader.files
    request.notes += reader.remarks
    for split, size in sizes.items():
        if lacking[split]:
            request.notes.append(drawn(split, lacking[split], size, request.seed, len(names)))
            if split == "test":
                _log.warning("%s: %s", request.name, request.notes[-1])
        elif size is not None:
            raise UsageError(f"{split}_size draws a missing part, and every task has a part {split}: leave it out.")
    request.notes += notes_on(tasks, request.scenario)
    return tasks


def _own_files(root: Path, spec: Any) -> dict[str, str]:
    """Return the SHA-256 of the files of the tasks that a run learns."""
    folders = [name for name in layout(root, Problems()) if name != ALL_TASKS]
    return files_of(root, order_tasks([folders], spec.order, spec.tasks) if folders else None)


@text_stream(
    "folder",
    title="your own data, from a folder or a file of CSV, TSV, JSON or Parquet",
    source="--data-root DIR with DIR/<task>/train.csv, test.csv and, if you like, valid.csv; or --data-root FILE "
    "--set task_column=COLUMN",
    licence="yours",
    citation="yours",
    scenarios=("til", "dil", "cil"),
    own_files=_own_files,
    options=FolderOptions,
)
def Folder(request: StreamRequest[FolderOptions]) -> list[TextTask]:
    """Read the folder or file `root`, for the command line; see `text_benchmark`."""
    root = data_root(request.root, file=True)
    if root is None:
        raise UsageError(
            "say where your data are: --data-root DIR with DIR/<task>/train.csv and test.csv, or --data-root FILE with "
            "--set task_column=COLUMN."
        )
    return _read_tasks(root, request)
