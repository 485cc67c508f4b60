"""From tasks to an Avalanche benchmark: `benchmark_from_tasks`, and for text `TextTask`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import pandas as pd
from avalanche.benchmarks import CLScenario, benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from torch import Tensor
from torch.utils.data import Dataset

from nlpcl.benchmarks.text import encode, load_tokenizer
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
    :raises UsageError: a column is missing, a split is empty or a label is no integer or out of range.
    """

    name: str
    labels: tuple[str, ...]
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame

    def __post_init__(self) -> None:
        for split in SPLITS:
            frame: pd.DataFrame = getattr(self, split)
            for column in ("text", "label"):
                if column not in frame.columns:
                    raise UsageError(f"task {self.name}, {split}: column {column!r} is missing.")
            if frame.empty:
                raise UsageError(f"task {self.name}, {split}: there are no rows.")
            if not pd.api.types.is_integer_dtype(frame["label"]):
                raise UsageError(f"task {self.name}, {split}: column 'label' must hold integers.")
            if not frame["label"].between(0, len(self.labels) - 1).all():
                raise UsageError(f"task {self.name}, {split}: a label is not in 0 to {len(self.labels) - 1}.")


class PackedText(Dataset[tuple[Tensor, int]]):
    """Tokenised examples: `x` is a LongTensor (N, 3, L), `targets` N class indices."""

    def __init__(self, x: Tensor, targets: list[int]) -> None:
        self.x = x
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def benchmark_from_tasks(
    tasks: Sequence[Task],
    dataset: Callable[[Any, int], Any],
    *,
    name: str,
    scenario: str,
    labels: tuple[str, ...] | None = None,
    files: Mapping[str, str] | None = None,
) -> CLScenario[Any]:
    """A benchmark with train, valid and test stream, one experience per task, whatever the examples are.

    :param tasks: in the order of the stream.
    :param dataset: makes of a split of a task, and of its task label, what `labelled` returns.
    :param name: the benchmark's name.
    :param scenario: `til`, task labels 0..T-1 and a label set per task, or `dil`, task labels all 0 and one label set.
    :param labels: the domain-incremental label set; None: that of the task with most labels.
    :param files: path and SHA-256 of the files the data come from.
    :raises UsageError: no such scenario, no tasks, or `dil` with tasks whose labels do not share a meaning.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"unknown scenario {scenario!r}. {suggest(scenario, SCENARIOS)}")
    if not tasks:
        raise UsageError(f"{name}: a stream needs at least one task.")
    shared = labels or max((task.labels for task in tasks), key=len)
    if scenario == "dil":
        for task in tasks:
            if task.labels != shared[: len(task.labels)]:
                raise UsageError(
                    f"{name} cannot run domain-incremental: the labels of {task.name} ({', '.join(task.labels)}) "
                    f"do not share the meaning of {', '.join(shared)}. Use --scenario til."
                )
    streams = {
        split: [dataset(getattr(task, split), i if scenario == "til" else 0) for i, task in enumerate(tasks)]
        for split in SPLITS
    }
    benchmark = with_classes_timeline(with_task_labels(benchmark_from_datasets(**streams)))
    classes = [len(task.labels) if scenario == "til" else len(shared) for task in tasks]
    for stream in benchmark.streams.values():
        for experience, task, n in zip(stream, tasks, classes, strict=True):
            # Avalanche stores a set of the classes that occur; its heads index with a list, and a head
            # has its size whatever classes a small sample happens to hold.
            experience.classes_in_this_experience = list(range(n))
            experience.task_name = task.name
    benchmark.benchmark_name = name
    benchmark.scenario = scenario
    benchmark.task_names = [task.name for task in tasks]
    benchmark.n_classes = classes
    benchmark.files = dict(files or {})
    benchmark.sizes = [
        {"name": task.name, "labels": list(task.labels), **{split: len(getattr(task, split)) for split in SPLITS}}
        for task in tasks
    ]
    return benchmark


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
    :param scenario: `til` or `dil`, as in `benchmark_from_tasks`.
    :param tokenizer: an encoder's name, or a tokenizer.
    :param max_length: L of every example (3, L).
    :param labels: the domain-incremental label set; None: that of the task with most labels.
    :param files: path and SHA-256 of the files the data come from.
    :raises UsageError: as in `benchmark_from_tasks`.
    """
    fast = load_tokenizer(tokenizer)

    def dataset(frame: pd.DataFrame, task: int) -> Any:
        return _dataset(frame, task, fast, max_length)

    benchmark = benchmark_from_tasks(tasks, dataset, name=name, scenario=scenario, labels=labels, files=files)
    benchmark.modality = "text"
    benchmark.input_shape = (3, max_length)
    benchmark.tokenizer_name = tokenizer if isinstance(tokenizer, str) else fast.name_or_path
    benchmark.max_length = max_length
    return benchmark


def _dataset(frame: pd.DataFrame, task: int, tokenizer: Any, max_length: int) -> Any:
    has_pairs = "text_pair" in frame.columns and not frame["text_pair"].isna().all()
    pairs = frame["text_pair"].tolist() if has_pairs else None
    targets = [int(label) for label in frame["label"]]
    packed = PackedText(encode(tokenizer, frame["text"].tolist(), pairs, max_length), targets)
    lengths = packed.x[:, 1].sum(dim=1).tolist()  # for batches of like length
    return labelled(packed, targets, task, DataAttribute(lengths, "lengths"))


def draw_rows(n: int, size: int | None, seed: int) -> list[int]:
    """`size` of n row numbers, drawn with a private generator; all, in order, if there are no more.

    :raises UsageError: `size` is not positive.
    """
    if size is not None and size < 1:
        raise UsageError(f"--train-size must be at least 1, not {size}.")
    rows = list(range(n))
    if size is None or size >= n:
        return rows
    random.Random(seed).shuffle(rows)
    return rows[:size]


def shuffle_cut(frame: pd.DataFrame, size: int | None, seed: int) -> pd.DataFrame:
    """The rows of a frame that `draw_rows` draws."""
    rows = draw_rows(len(frame), size, seed)
    return frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)


def order_tasks(orders: Sequence[Sequence[str]], order: int | Sequence[str], tasks: int | None) -> list[str]:
    """The names of a stream's tasks.

    :param orders: the published orders, each over the same names.
    :param order: number of a published order, or the names themselves.
    :param tasks: keep the first so many.
    :raises UsageError: no such order or name, a name twice, or more tasks than there are.
    """
    if isinstance(order, int):
        if not 0 <= order < len(orders):
            raise UsageError(f"--order must be 0 to {len(orders) - 1}, or task names joined by commas, not {order}.")
        names = list(orders[order])
    else:
        names = list(order)
        for name in names:
            if name not in orders[0]:
                raise UsageError(f"unknown task {name!r} in the order. {suggest(name, orders[0])}")
        if not names or len(set(names)) < len(names):
            raise UsageError("an order names at least one task, and none twice.")
    if tasks is not None and not 1 <= tasks <= len(names):
        raise UsageError(f"--tasks must be 1 to {len(names)}, not {tasks}.")
    return names[:tasks]


@cache
def published_orders(name: str) -> list[list[str]]:
    """The published task orders of a stream, from `orders.json`."""
    return json.loads(files("nlpcl.benchmarks").joinpath("orders.json").read_text(encoding="utf-8"))[name]


@cache
def published_hashes(name: str) -> dict[str, str]:
    """SHA-256 of a benchmark's files by path, from `<name>.sha256`."""
    text = files("nlpcl.benchmarks").joinpath(f"{name}.sha256").read_text(encoding="utf-8")
    return {path: digest for digest, path in (line.split() for line in text.splitlines())}
