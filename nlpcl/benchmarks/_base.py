"""`Benchmark`: a stream of tasks as Avalanche takes it, whatever its examples are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from avalanche.benchmarks import (
    CLScenario,
    EagerCLStream,
    benchmark_from_datasets,
    with_classes_timeline,
    with_task_labels,
)
from avalanche.benchmarks.utils import (
    ConstantSequence,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    TaskLabels,
)
from torch import Tensor
from torch.utils.data import Dataset

from nlpcl.benchmarks._labels import in_order
from nlpcl.errors import UsageError, suggest
from nlpcl.registry import SCENARIOS, Modality

if TYPE_CHECKING:
    from nlpcl.benchmarks._tokens import PackedText
    from nlpcl.benchmarks.words import Vectors
    from nlpcl.models.states import TokenStates

SPLITS = ("train", "valid", "test")
MakeExamples = Callable[[Any, int, Sequence[int]], TaskAwareSupervisedClassificationDataset[Any]]
"""Takes a split of a task, the task label and the class in the head of each of the task's labels; see `labelled`."""


_DataT = TypeVar("_DataT", bound=Sized)


@dataclass(frozen=True)
class Task(Generic[_DataT]):
    """One task of a stream.

    :param name: the task's name.
    :param labels: names of the classes; a label is an index into them.
    """

    name: str
    labels: tuple[str, ...]
    train: _DataT
    valid: _DataT
    test: _DataT

    def __post_init__(self) -> None:
        """Refuse data that cannot be used; each kind of task says which.

        It must be here for a dataclass to call that of a subclass, which is no dataclass of its own.
        """


class Examples(Dataset[tuple[Tensor, int]]):
    """Examples with their classes, read one by one or several at once."""

    targets: Sequence[int]
    """Class of each example."""

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs(torch.tensor([index]))[0], self.targets[index]

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the inputs (B, ...) of the examples `rows`, LongTensor (B,)."""
        raise NotImplementedError

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples `rows`, LongTensor (B,): inputs (B, ...) and classes (B,)."""
        return self.inputs(rows), torch.tensor([self.targets[row] for row in rows.tolist()], dtype=torch.long)


class Benchmark(CLScenario[Any]):
    """A benchmark of Avalanche whose tasks each have training, validation and test examples.

    Each of the three streams has one experience per task. An experience knows its `task_name` and, as
    `classes_in_this_experience`, the classes of its task in the head.
    """

    train_stream: EagerCLStream[Any]
    valid_stream: EagerCLStream[Any]
    test_stream: EagerCLStream[Any]

    tokenizer: Any = None
    """The tokenizer of texts; None for images."""
    tokenizer_name: str = ""
    """The encoder that the tokenizer belongs to: a name or a folder; empty if unknown."""
    max_length: int | None = None
    """Tokens that each text is padded or cut to; None for images."""
    vectors: Vectors | None = None
    """Word vectors, one for each of the tokenizer's words; None for an encoder's tokens, and for images."""
    states: TokenStates | None = None
    """Token states of an encoder, once `nlpcl.models.precompute` has computed them; None before."""

    def __init__(
        self,
        tasks: Sequence[Task[Any]],
        examples: MakeExamples,
        *,
        name: str,
        scenario: str,
        modality: Modality,
        input_shape: tuple[int, ...],
        labels: tuple[str, ...] | None = None,
        files: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Make the streams.

        :param tasks: in the order of the stream.
        :param examples: makes the data of one experience.
        :param name: the benchmark's name.
        :param scenario: `til`, task labels 0..T-1 and a label set per task; `dil`, task labels all 0 and one label set;
            or `cil`, task labels all 0 and one head for the label sets of all tasks, which must not overlap.
        :param modality: what the examples are.
        :param input_shape: shape of an example.
        :param labels: the label set of the shared head; None means the labels of all tasks, matched by name in `dil`.
        :param files: path and SHA-256 of the files the data come from.
        :param notes: sentences on what may spoil a result.
        :raises UsageError: no such scenario, no tasks, `dil` with tasks that have no label in common, or `cil` with
            tasks that share labels.
        """
        if scenario not in SCENARIOS:
            raise UsageError(f"unknown scenario {scenario!r}. {suggest(str(scenario), SCENARIOS)}")
        if not tasks:
            raise UsageError(f"{name}: a stream needs at least one task.")
        shared = _shared_labels(tasks, name, scenario, labels)
        heads = [shared or task.labels for task in tasks]
        classes = [[head.index(label) for label in task.labels] for task, head in zip(tasks, heads, strict=True)]
        datasets = {
            split: [
                examples(getattr(task, split), i if scenario == "til" else 0, classes[i])
                for i, task in enumerate(tasks)
            ]
            for split in SPLITS
        }
        streams = with_classes_timeline(with_task_labels(benchmark_from_datasets(**datasets))).streams
        super().__init__(streams.values())
        for stream in self.streams.values():
            stream.benchmark = self  # so that a method finds the validation data of the experience it trains on
            for i, experience in enumerate(stream):
                # Avalanche stores a set of the classes that occur; its heads index with a list, and a head
                # has its size whatever classes a small sample happens to hold, or a task of `dil` lacks.
                experience.classes_in_this_experience = classes[i] if scenario == "cil" else list(range(len(heads[i])))
                experience.task_name = tasks[i].name
        self.name = name
        """Name of the stream."""
        self.scenario = scenario
        """`til`, `dil` or `cil`."""
        self.modality = modality
        """`text` or `image`."""
        self.input_shape = input_shape
        """Shape of an example: (3, L) of texts, (C, H, W) of images."""
        self.task_names = [task.name for task in tasks]
        """Name of each task, in the order of the stream."""
        self.n_classes = [len(head) for head in heads]
        """Classes of each task's head; in `dil` and `cil` all tasks share one."""
        self.labels = shared
        """Labels of the head that all tasks share; empty in `til`."""
        self.sizes: list[dict[str, Any]] = [
            {"name": task.name, "labels": list(task.labels), **{split: len(getattr(task, split)) for split in SPLITS}}
            for task in tasks
        ]
        """For each task its `name`, its `labels`, and its numbers of examples `train`, `valid` and `test`."""
        self.files = dict(files or {})
        """SHA-256 of each file that the data come from, by path."""
        self.notes = list(notes)
        """Sentences on what may spoil a result; only your own data are looked at so closely."""
        self.packed: Mapping[str, Sequence[PackedText]] = {}
        """Examples of each task tokenised for an encoder, by split."""


def labelled(
    data: Examples, task: int, *attributes: DataAttribute[Any]
) -> TaskAwareSupervisedClassificationDataset[Any]:
    """Return `data` as Avalanche's strategies take it, with targets, one task label and further attributes."""
    targets, labels = DataAttribute(data.targets, "targets"), TaskLabels(ConstantSequence(task, len(data)))
    return TaskAwareSupervisedClassificationDataset([data], data_attributes=[targets, labels, *attributes])


def _shared_labels(
    tasks: Sequence[Task[Any]], name: str, scenario: str, labels: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the labels of the head that all tasks share; none in task-incremental learning."""
    if scenario == "til":
        return ()
    every = [(label, task.name) for task in tasks for label in task.labels]
    counts = Counter(label for label, _ in every)
    twice = [label for label, count in counts.items() if count > 1]
    if scenario == "cil" and twice:
        raise UsageError(f"{name} cannot run class-incremental: label {twice[0]} is in more than one task.")
    shared = labels or (tuple(counts) if scenario == "cil" else _joined_labels(tasks, name))
    for label, task in every:
        if label not in shared:
            raise UsageError(
                f"{name} cannot run with one head: label {label} of {task} is none of the head's labels "
                f"({', '.join(shared)})."
            )
    return shared


def _joined_labels(tasks: Sequence[Task[Any]], name: str) -> tuple[str, ...]:
    """Return the labels of all tasks, matched by name, for domain-incremental learning.

    They stand in the order of a task that has all of them, or else numbers by their value and words by the alphabet.

    :raises UsageError: the tasks fall into groups that have no label in common, so their labels mean different things.
    """
    joined = set(tasks[0].labels)
    for _ in tasks:  # each time the tasks join that share a label with those which have joined
        joined.update(*(task.labels for task in tasks if joined & set(task.labels)))
    apart = [task for task in tasks if not joined & set(task.labels)]
    if apart:
        one, other = tasks[0], apart[0]
        raise UsageError(
            f"{name} cannot run domain-incremental: the labels of {other.name} ({', '.join(other.labels)}) do not "
            f"share the meaning of those of {one.name} ({', '.join(one.labels)}): none is the same. Use --scenario til."
        )
    return next((task.labels for task in tasks if len(task.labels) == len(joined)), in_order(joined))


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, Python's or numpy's, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small.

    :raises UsageError: naming the argument.
    """
    if not is_whole(value) or value < least:
        raise UsageError(f"{name} takes a whole number of at least {least}, not {value!r}.")


def draw_rows(n: int, size: int | None, seed: int) -> list[int]:
    """Return `size` of n row numbers, drawn with a private generator; all of them, in order, if there are no more."""
    rows = list(range(n))
    if size is None or size >= n:
        return rows
    random.Random(seed).shuffle(rows)
    return rows[:size]
