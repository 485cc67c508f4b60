"""From tasks to an Avalanche benchmark: `benchmark_from_tasks`, and for text `TextTask`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from numbers import Integral
from os import PathLike
from typing import Any, Protocol

import pandas as pd
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from torch.utils.data import Dataset

from nlpcl.benchmarks._files.cache import fingerprint
from nlpcl.benchmarks._labels import in_order
from nlpcl.benchmarks._text import PackedText, columns, load_tokenizer, pack
from nlpcl.benchmarks.words import Words
from nlpcl.config.orders import Published
from nlpcl.errors import UsageError, suggest
from nlpcl.registry import SCENARIOS

SPLITS = ("train", "valid", "test")


class Task(Protocol):
    """What a stream of any modality needs to know of a task."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def train(self) -> Sized: ...
    @property
    def valid(self) -> Sized: ...
    @property
    def test(self) -> Sized: ...


@dataclass(frozen=True)
class TextTask:
    """One task of a text stream.

    :param name: the task's name.
    :param labels: names of the classes; a label is an index into them.
    :param train: frame with columns `text`, `text_pair` (may be missing) and `label`; so `valid` and `test`.
    :raises UsageError: two labels are the same; a column is missing, there twice, or in one split alone; a split is
        empty; a text is none; a label is no integer or out of range.
    """

    name: str
    labels: tuple[str, ...]
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels) or not all(isinstance(label, str) for label in self.labels):
            raise UsageError(f"task {self.name}: labels must be texts that differ, not {self.labels}.")
        for split in SPLITS:
            frame: pd.DataFrame = getattr(self, split)
            for column in ("text", "label"):
                if column not in frame.columns:
                    raise UsageError(f"task {self.name}, {split}: column {column!r} is missing.")
            if not frame.columns.is_unique:
                twice = frame.columns[frame.columns.duplicated()][0]
                raise UsageError(f"task {self.name}, {split}: column {twice!r} is there twice.")
            if ("text_pair" in frame.columns) != ("text_pair" in self.train.columns):
                raise UsageError(f"task {self.name}: text_pair is in one of train and {split} alone.")
            if frame.empty:
                raise UsageError(f"task {self.name}, {split}: there are no rows.")
            if not pd.api.types.is_integer_dtype(frame["label"]):
                raise UsageError(f"task {self.name}, {split}: column 'label' must hold integers.")
            if not frame["label"].between(0, len(self.labels) - 1).all():
                raise UsageError(f"task {self.name}, {split}: a label is not in 0 to {len(self.labels) - 1}.")
            for column in ("text", "text_pair"):
                if column in frame.columns and not _holds_texts(frame[column], optional=column == "text_pair"):
                    raise UsageError(f"task {self.name}, {split}: column {column!r} must hold texts alone.")


def _holds_texts(column: pd.Series[Any], optional: bool) -> bool:
    """Return whether all values are texts; where they are optional none at all will do."""
    absent = column.isna()
    if optional and absent.all():
        return True
    texts = isinstance(column.dtype, pd.StringDtype)
    return not absent.any() and (texts or all(issubclass(kind, str) for kind in set(map(type, column))))


def benchmark_from_tasks(
    tasks: Sequence[Task],
    dataset: Callable[[Any, int, Sequence[int]], Any],
    *,
    name: str,
    scenario: str,
    labels: tuple[str, ...] | None = None,
    files: Mapping[str, str] | None = None,
) -> CLScenario[Any]:
    """A benchmark with train, valid and test stream, one experience per task, whatever the examples are.

    :param tasks: in the order of the stream.
    :param dataset: makes of a split of a task, of its task label and of the class that each of the task's labels is in
        the head, what `labelled` returns.
    :param name: the benchmark's name.
    :param scenario: `til`, task labels 0..T-1 and a label set per task; `dil`, task labels all 0 and one label set; or
        `cil`, task labels all 0 and one head for the label sets of all tasks, which must not overlap.
    :param labels: the label set of the shared head; None: the labels of all tasks, which `dil` matches by name.
    :param files: path and SHA-256 of the files the data come from.
    :raises UsageError: no such scenario, no tasks, `dil` with tasks that have no label in common, or `cil` with tasks
        that share labels.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"unknown scenario {scenario!r}. {suggest(scenario, SCENARIOS)}")
    if not tasks:
        raise UsageError(f"{name}: a stream needs at least one task.")
    shared = _shared_labels(tasks, name, scenario, labels)
    indices = [[(shared or task.labels).index(label) for label in task.labels] for task in tasks]
    streams = {
        split: [
            dataset(getattr(task, split), i if scenario == "til" else 0, own)
            for i, (task, own) in enumerate(zip(tasks, indices, strict=True))
        ]
        for split in SPLITS
    }
    benchmark = with_classes_timeline(with_task_labels(benchmark_from_datasets(**streams)))
    classes = [len(shared or task.labels) for task in tasks]
    for stream in benchmark.streams.values():
        stream.benchmark = benchmark  # so that a method finds the validation data of the experience it trains on
        for experience, task, n, own in zip(stream, tasks, classes, indices, strict=True):
            # Avalanche stores a set of the classes that occur; its heads index with a list, and a head
            # has its size whatever classes a small sample happens to hold, or a task of `dil` lacks.
            experience.classes_in_this_experience = own if scenario == "cil" else list(range(n))
            experience.task_name = task.name
    benchmark.benchmark_name = name
    benchmark.scenario = scenario
    benchmark.task_names = [task.name for task in tasks]
    benchmark.n_classes = classes
    benchmark.files = dict(files or {})
    benchmark.notes = []  # sentences that a user should read, of streams that look at their data
    benchmark.sizes = [
        {"name": task.name, "labels": list(task.labels), **{split: len(getattr(task, split)) for split in SPLITS}}
        for task in tasks
    ]
    return benchmark


def _shared_labels(tasks: Sequence[Task], name: str, scenario: str, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the labels of the head that all tasks share; none in task-incremental learning."""
    if scenario == "til":
        return ()
    if scenario == "cil":
        together = [label for task in tasks for label in task.labels]
        if len(set(together)) < len(together):
            twice = next(label for label in together if together.count(label) > 1)
            raise UsageError(f"{name} cannot run class-incremental: label {twice} is in more than one task.")
        shared = labels or tuple(together)
    else:
        shared = labels or _joined_labels(tasks, name)
    for task in tasks:
        absent = [label for label in task.labels if label not in shared]
        if absent:
            raise UsageError(
                f"{name} cannot run with one head: label {absent[0]} of {task.name} is none of the head's labels "
                f"({', '.join(shared)})."
            )
    return shared


def _joined_labels(tasks: Sequence[Task], name: str) -> tuple[str, ...]:
    """Return the labels of all tasks, matched by name, for domain-incremental learning.

    They stand in the order of a task that has all of them, or else numbers by their value and words by the alphabet.

    :raises UsageError: the tasks fall into groups that have no label in common, so their labels mean different things.
    """
    groups: list[tuple[Task, set[str]]] = []
    for task in tasks:
        joined = [group for group in groups if group[1] & set(task.labels)]
        first = joined[0][0] if joined else task
        groups = [group for group in groups if group not in joined]
        groups.append((first, set(task.labels).union(*(labels for _, labels in joined))))
    if len(groups) > 1:
        (one, _), (other, _) = groups[:2]
        raise UsageError(
            f"{name} cannot run domain-incremental: the labels of {other.name} ({', '.join(other.labels)}) do not "
            f"share the meaning of those of {one.name} ({', '.join(one.labels)}): none is the same. Use --scenario til."
        )
    union = groups[0][1]
    longest = max((task.labels for task in tasks), key=len)
    return longest if len(longest) == len(union) else in_order(union)


def labelled(data: Dataset[Any], targets: Sequence[int], task: int, *more: DataAttribute[Any]) -> Any:
    """`data` as Avalanche's strategies take it, with targets, one task label and further attributes."""
    return TaskAwareSupervisedClassificationDataset(
        [data],
        data_attributes=[
            DataAttribute(targets, "targets"),
            TaskLabels(ConstantSequence(task, len(targets))),
            *more,
        ],
    )


def text_benchmark_from_tasks(
    tasks: Sequence[TextTask],
    *,
    name: str,
    scenario: str,
    tokenizer: Any,
    max_length: int = 128,
    labels: tuple[str, ...] | None = None,
    files: Mapping[str, str] | None = None,
) -> CLScenario[Any]:
    """A benchmark of texts; every example is (3, L).

    :param tasks: in the order of the stream.
    :param name: the benchmark's name.
    :param scenario: `til`, `dil` or `cil`, as in `benchmark_from_tasks`.
    :param tokenizer: an encoder's name or folder, a tokenizer, or `Words` for a backbone of word vectors, which the
        benchmark then holds as its `vectors`.
    :param max_length: L of every example (3, L).
    :param labels: the label set of the shared head, as in `benchmark_from_tasks`.
    :param files: path and SHA-256 of the files the data come from.
    :raises UsageError: as in `benchmark_from_tasks`.
    """
    words = tokenizer if isinstance(tokenizer, Words) else None
    vectors = words.vectors(tasks) if words else None
    fast = vectors.tokenizer() if vectors else load_tokenizer(tokenizer)
    identity = fingerprint(fast)

    everything: list[PackedText] = []

    def dataset(frame: pd.DataFrame, task: int, classes: Sequence[int]) -> Any:
        texts, pairs = words.columns(frame) if words else columns(frame)
        targets = [classes[label] for label in frame["label"]]
        packed = pack(fast, identity, texts, pairs, targets, max_length)
        everything.append(packed)
        lengths = DataAttribute(packed.lengths.tolist(), "lengths")  # for batches of like length
        return labelled(packed, targets, task, lengths)

    benchmark = benchmark_from_tasks(tasks, dataset, name=name, scenario=scenario, labels=labels, files=files)
    benchmark.modality = "text"
    benchmark.input_shape = (3, max_length)
    benchmark.tokenizer = fast
    benchmark.tokenizer_name = str(tokenizer) if isinstance(tokenizer, (str, PathLike)) else fast.name_or_path
    benchmark.max_length = max_length
    benchmark.vectors = vectors
    n = len(tasks)  # the splits follow each other, each with all tasks
    of_splits = {split: everything[i * n : (i + 1) * n] for i, split in enumerate(SPLITS)}
    benchmark.packed = {} if vectors else of_splits
    return benchmark


def draw_rows(n: int, size: int | None, seed: int) -> list[int]:
    """`size` of n row numbers, drawn with a private generator; all, in order, if there are no more.

    :raises UsageError: `size` is no positive integer.
    """
    if size is not None and (not isinstance(size, Integral) or isinstance(size, bool) or size < 1):
        raise UsageError(f"--train-size must be a whole number of at least 1, not {size!r}.")
    rows = list(range(n))
    if size is None or size >= n:
        return rows
    random.Random(seed).shuffle(rows)
    return rows[:size]


def shuffle_cut(frame: pd.DataFrame, size: int | None, seed: int) -> pd.DataFrame:
    """The rows of a frame that `draw_rows` draws."""
    rows = draw_rows(len(frame), size, seed)
    return frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)


@cache
def published_orders(name: str) -> list[list[str]]:
    """The published task orders of a stream, from `orders.json`."""
    return json.loads(files("nlpcl.benchmarks._files").joinpath("orders.json").read_text(encoding="utf-8"))[name]


def orders_of(name: str) -> Callable[..., Published]:
    """For `BenchmarkEntry.published`: a stream's orders in `orders.json`, whatever is asked."""
    return lambda **asked: (published_orders(name), None)


@cache
def published_hashes(name: str) -> dict[str, str]:
    """SHA-256 of a benchmark's files by path, from `<name>.sha256`."""
    text = files("nlpcl.benchmarks._files").joinpath(f"{name}.sha256").read_text(encoding="utf-8")
    return {path: digest for digest, path in (line.split() for line in text.splitlines())}
