"""Text streams: `TextTask`, a benchmark of such tasks, and the decorator that makes a stream of a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import pandas as pd
from avalanche.benchmarks.utils import DataAttribute

from nlpcl.benchmarks._base import SPLITS, Benchmark, Task, check_whole, draw_rows, labelled
from nlpcl.benchmarks._files.cache import fingerprint
from nlpcl.benchmarks._stream import register_stream
from nlpcl.benchmarks._tokens import PackedText, columns, load_tokenizer, pack
from nlpcl.benchmarks.words import Words
from nlpcl.errors import UsageError


class TextTask(Task[pd.DataFrame]):
    """One task of a text stream.

    :param name: the task's name.
    :param labels: names of the classes; a label is an index into them.
    :param train: frame with columns `text`, `text_pair` (may be missing) and `label`; so `valid` and `test`.
    :raises UsageError: two labels are the same; a column is missing, there twice, or in one split alone; a split is
        empty; a text is none; a label is no integer or out of range.
    """

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
    """Return whether all values are texts; an optional column may also hold none at all."""
    absent = column.isna()
    if optional and absent.all():
        return True
    texts = isinstance(column.dtype, pd.StringDtype)
    return not absent.any() and (texts or all(issubclass(kind, str) for kind in set(map(type, column))))


def text_benchmark_from_tasks(
    tasks: Sequence[TextTask],
    *,
    name: str,
    scenario: str,
    tokenizer: Any,
    max_length: int = 128,
    labels: tuple[str, ...] | None = None,
    files: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Benchmark:
    """Return a benchmark of texts; every example is (3, L).

    :param tasks: in the order of the stream.
    :param name: the benchmark's name.
    :param scenario: `til`, `dil` or `cil`, as in `Benchmark`.
    :param tokenizer: an encoder's name or folder, a tokenizer, or `Words` for a backbone of word vectors, which the
        benchmark then holds as its `vectors`.
    :param max_length: L of every example (3, L).
    :param labels: the label set of the shared head, as in `Benchmark`.
    :param files: path and SHA-256 of the files the data come from.
    :param notes: sentences on what may spoil a result.
    :raises UsageError: as `Benchmark`, or the tokenizer cannot be had, or `max_length` is no positive integer.
    """
    check_whole("max_length", max_length, 1)
    words = tokenizer if isinstance(tokenizer, Words) else None
    vectors = words.vectors(tasks) if words else None
    fast = vectors.tokenizer() if vectors else load_tokenizer(tokenizer)
    identity = fingerprint(fast)
    packed: list[PackedText] = []

    def examples(frame: pd.DataFrame, task: int, classes: Sequence[int]) -> Any:
        texts, pairs = words.columns(frame) if words else columns(frame)
        targets = [classes[label] for label in frame["label"]]
        packed.append(pack(fast, identity, texts, pairs, targets, max_length))
        lengths = DataAttribute(packed[-1].lengths.tolist(), "lengths")  # for batches of like length
        return labelled(packed[-1], task, lengths)

    benchmark = Benchmark(
        tasks,
        examples,
        name=name,
        scenario=scenario,
        modality="text",
        input_shape=(3, max_length),
        labels=labels,
        files=files,
        notes=notes,
    )
    benchmark.tokenizer = fast
    benchmark.tokenizer_name = str(tokenizer) if isinstance(tokenizer, (str, PathLike)) else fast.name_or_path
    benchmark.max_length = max_length
    benchmark.vectors = vectors
    if vectors is None:  # the splits follow each other, each with all tasks
        n = len(tasks)
        benchmark.packed = {split: packed[i * n : (i + 1) * n] for i, split in enumerate(SPLITS)}
    return benchmark


def shuffle_cut(frame: pd.DataFrame, size: int | None, seed: int) -> pd.DataFrame:
    """Return the rows of a frame that `draw_rows` draws."""
    rows = draw_rows(len(frame), size, seed)
    return frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)


text_stream = partial(register_stream, text_benchmark_from_tasks)
"""Return a decorator that makes a text stream of the function that loads its tasks.

It takes the stream's name on the command line, `max_length`, the default of the stream's argument, `options`, the class
of its own options, and fields of `BenchmarkEntry`; the first of `scenarios` is the stream's default.
"""
