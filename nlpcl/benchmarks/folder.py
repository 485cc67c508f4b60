"""Your own data as a stream: from data frames, a `datasets.DatasetDict` a task, or a folder of CSV or JSONL files."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks.base import TextTask, shuffle_cut, text_benchmark_from_tasks
from nlpcl.benchmarks.download import data_root, own_files
from nlpcl.errors import UsageError
from nlpcl.orders import order_tasks
from nlpcl.registry import register_benchmark

SPLITS = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev", "val"),
    "test": ("test",),
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
SHOWN = 5


def text_benchmark(
    tasks: Mapping[str, Mapping[str, Any]] | str | Path,
    *,
    name: str = "text",
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    subset: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
) -> CLScenario[Any]:
    """A benchmark from your own data, one experience per task.

    A part has columns `text`, `label` and, for pairs of texts, `text_pair`. Labels are strings or integers; a task's
    label set is what occurs in its training part, sorted. Without a validation part a tenth of the training part,
    drawn with `seed`, validates. Bad rows are never dropped: they are refused, with their places.

    :param tasks: by name the parts `train`, `valid` (or `validation`, `dev`, `val`; may be missing) and `test`, each a
        data frame or a `datasets.Dataset`, so a `DatasetDict` will do; or a folder with one folder per task that
        holds `train.csv` and so on (.csv, .tsv, .jsonl, or .json with one list of objects).
    :param name: the benchmark's name.
    :param scenario: `til`, `dil` or `cil`.
    :param order: 0 for the order given (of a folder: by name), `seed:N`, or the names of the tasks.
    :param tokenizer: an encoder's name, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param subset: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of the draws.
    :raises UsageError: a part or column is missing, or rows are bad: no text, no label, a label that training lacks.
    """
    files: dict[str, str] = {}
    given = _read_folder(Path(tasks), files) if isinstance(tasks, (str, Path)) else tasks
    if not given:
        raise UsageError(f"{name}: a stream needs at least one task.")
    names = order_tasks([list(given)], order, subset)
    return text_benchmark_from_tasks(
        [_task(task, given[task], train_size, seed) for task in names],
        name=name,
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        files=files,
    )


@register_benchmark(
    "folder",
    title="your own data, from a folder of CSV or JSONL files",
    source="--data-root DIR with DIR/<task>/train.csv, test.csv and, if you like, valid.csv",
    licence="yours",
    citation="yours",
    scenarios=("til", "dil", "cil"),
    own_files=own_files(*(f"*/*{suffix}" for suffix in SUFFIXES)),
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
) -> CLScenario[Any]:
    """`text_benchmark` of the folder `root`, for the command line.

    :param root: the folder; None: the one NLPCL_DATA names.
    :raises UsageError: as `text_benchmark`, or no folder is named.
    """
    folder = data_root(root)
    if folder is None:
        raise UsageError("say where your data are: --data-root DIR with DIR/<task>/train.csv and test.csv.")
    return text_benchmark(
        folder,
        name="folder",
        scenario=scenario,
        order=order,
        tokenizer=tokenizer,
        max_length=max_length,
        subset=tasks,
        train_size=train_size,
        seed=seed,
    )


def _read_folder(folder: Path, files: dict[str, str]) -> dict[str, dict[str, pd.DataFrame]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.")
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for file in sorted(task.iterdir()):
            if file.suffix in SUFFIXES and any(file.stem in names for names in SPLITS.values()):
                content = file.read_bytes()
                files[f"{task.name}/{file.name}"] = hashlib.sha256(content).hexdigest()
                found.setdefault(task.name, {})[file.stem] = _parse(content, file)
    if not found:
        raise UsageError(f"{folder} holds no <task>/train.csv (or .tsv, .jsonl, .json).")
    return found


def _parse(content: bytes, file: Path) -> pd.DataFrame:
    """The table in a file; its attribute `place` says how a row is found there."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{file}, line {line}: not UTF-8 text.") from error
    if file.suffix in (".csv", ".tsv"):
        separator = "," if file.suffix == ".csv" else "\t"
        try:
            frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
        except ValueError as error:
            raise UsageError(f"{file} cannot be read: {error}.") from error
    elif file.suffix == ".jsonl":
        # Not splitlines(): texts may hold characters that it takes for the end of a line.
        lines = enumerate(text.split("\n"), start=1)
        frame = pd.DataFrame([_object(line, f"{file}, line {number}") for number, line in lines if line.strip()])
    else:
        rows = _json(text, str(file))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UsageError(f"{file} holds no list of objects.")
        frame = pd.DataFrame(rows)
    frame.attrs["place"] = str(file)
    return frame


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{place}: not JSON ({error}).") from error


def _object(text: str, place: str) -> dict[str, Any]:
    row = _json(text, place)
    if not isinstance(row, dict):
        raise UsageError(f"{place}: not an object with text and label.")
    return row


def _task(name: str, parts: Mapping[str, Any], train_size: int | None, seed: int) -> TextTask:
    frames: dict[str, pd.DataFrame] = {}
    for split, names in SPLITS.items():
        for part in (part for part in names if part in parts):
            frames[split] = _frame(parts[part], f"task {name}, {part}")
    for split in ("train", "test"):
        if split not in frames:
            raise UsageError(f"task {name} has no {split} part.")
    labels = sorted({str(label) for label in frames["train"]["label"]}, key=_as_number)
    for frame in frames.values():
        _refuse_bad_rows(frame, labels)
        frame["label"] = [labels.index(str(label)) for label in frame["label"]]
    if "valid" not in frames:
        rows = list(range(len(frames["train"])))
        random.Random(f"{seed} {name}").shuffle(rows)
        held = max(1, len(rows) // 10)
        frames["valid"] = frames["train"].iloc[sorted(rows[:held])].reset_index(drop=True)
        frames["train"] = frames["train"].iloc[sorted(rows[held:])].reset_index(drop=True)
    train = shuffle_cut(frames["train"], train_size, seed)
    return TextTask(name, tuple(labels), train, frames["valid"], frames["test"])


def _as_number(label: str) -> tuple[int, str]:
    """Sorts 2 before 10."""
    return (int(label) if label.isdigit() else 0, label)


def _frame(part: Any, place: str) -> pd.DataFrame:
    frame = (part if isinstance(part, pd.DataFrame) else part.to_pandas()).reset_index(drop=True)
    frame.attrs["place"] = frame.attrs.get("place", place)
    for column in ("text", "label"):
        if column not in frame.columns:
            have = ", ".join(map(str, frame.columns))
            raise UsageError(f"{frame.attrs['place']}: column {column!r} is missing; there are {have}.")
    return frame.copy()


def _refuse_bad_rows(frame: pd.DataFrame, labels: Sequence[str]) -> None:
    place = frame.attrs["place"]
    # The line of a row, as long as no field holds a line break; a CSV file begins with a header.
    first = 2 if place.endswith((".csv", ".tsv")) else 1
    bad = []
    columns = [column for column in ("text", "text_pair") if column in frame.columns]
    for number, row in enumerate(frame[[*columns, "label"]].to_dict("records"), start=first):
        if any(not isinstance(row[column], str) or not row[column].strip() for column in columns):
            bad.append(f"row {number}: no text")
        elif pd.isna(row["label"]) or str(row["label"]) == "":
            bad.append(f"row {number}: no label")
        elif str(row["label"]) not in labels:
            bad.append(f"row {number}: label {row['label']!r} does not occur in training")
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise UsageError(f"{place}: {len(bad)} of {len(frame)} rows are bad: {'; '.join(bad[:SHOWN])}{more}.")
