"""A task of your own data: its parts are compared, its labels numbered, and missing parts drawn class by class."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from nlpcl.benchmarks import _labels
from nlpcl.benchmarks._labels import is_missing
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut
from nlpcl.benchmarks.folder._options import FolderOptions, Size
from nlpcl.benchmarks.folder._problems import Problems, listed
from nlpcl.benchmarks.folder._rows import Part, words_in

_LabelWords = dict[str, list[str | None]]


def text_task(
    name: str, readable: Mapping[str, Part | None], request: StreamRequest[FolderOptions], problems: Problems
) -> TextTask | None:
    """Return the task, or None if it has problems.

    :param readable: its parts; None stands for one that cannot be read.
    :param request: says what to draw where a part is missing, and how many training examples to keep.
    :param problems: gets all that is wrong with the task.
    """
    before = len(problems)
    parts = {split: part for split, part in readable.items() if part is not None}
    columns = ["text", "text_pair"] if _has_pairs(name, parts, problems) else ["text"]
    texts = {split: {key: words_in(part, key, problems) for key in columns} for split, part in parts.items()}
    words = {split: words_in(part, "label", problems) for split, part in parts.items()}
    labels = _labels_of(name, parts, words, problems)
    if len(problems) > before or len(parts) < len(readable) or "train" not in parts:
        return None
    index = {label: i for i, label in enumerate(labels)}
    frames = {
        split: pd.DataFrame({**texts[split], "label": [index[str(word)] for word in words[split]]}) for split in parts
    }
    _draw_parts(name, frames, request, problems)
    if len(frames) < 3:
        return None
    train = shuffle_cut(frames["train"], request.train_size, request.seed)
    return TextTask(name, labels, train, frames["valid"], frames["test"])


def _has_pairs(name: str, parts: Mapping[str, Part], problems: Problems) -> bool:
    """Return whether the parts hold second texts: all of them, or none."""
    lacking = [part for part in parts.values() if all(map(is_missing, part.frame.get("text_pair", ())))]
    having = [part for part in parts.values() if all(part is not other for other in lacking)]
    if having and lacking:
        problems.append(
            f"task {name}: {lacking[0].place} has no text_pair and {having[0].place} has: a task reads pairs in all of "
            "its parts or in none"
        )
    return bool(having) and not lacking


def _labels_of(name: str, parts: Mapping[str, Part], words: _LabelWords, problems: Problems) -> tuple[str, ...]:
    """Return the labels of the training part, in order; of floats the integers they are, also in `words`."""
    every = list(dict.fromkeys(word for column in words.values() for word in column if word is not None))
    if integers := _labels.as_integers(every):
        for split, column in words.items():
            words[split] = [None if word is None else integers[word] for word in column]
        every = list(dict.fromkeys(integers.values()))
    counts = {split: Counter(word for word in column if word is not None) for split, column in words.items()}
    scores = {split: real for split in counts if (real := _labels.score_among(counts[split])) is not None}
    for split, real in scores.items():
        rows = [i for i, word in enumerate(words[split]) if word is not None and _labels.score_among([word])]
        parts[split].report({_labels.score_fault(real): rows}, problems)
    if scores or not every:
        return ()
    if (several := _labels.combined(every)) is not None:
        place = _where(several, parts, words, counts)
        problems.append(f"task {name}: label {place} names several others: multi-label data are not supported")
    clashes = _labels.clashes(every)
    for group, why in clashes:
        spellings = " and ".join(_where(word, parts, words, counts) for word in group)
        problems.append(f"task {name}: labels {spellings} {why}: write them alike")
    trained = counts.get("train")
    if not trained:
        return ()
    for split, part in parts.items():
        unknown = [
            word for word in counts[split] if word not in trained and not any(word in group for group, _ in clashes)
        ]
        if unknown:
            more = f", nor do {listed(map(repr, unknown[1:]))}" if unknown[1:] else ""
            if unknown == ["-1"]:
                more = ": are the labels hidden? Take a part whose labels are known"
            strange = set(unknown)
            rows = [i for i, word in enumerate(words[split]) if word in strange]
            part.report({f"label {unknown[0]!r} does not occur in training{more}": rows}, problems)
    return _labels.in_order(trained)


def _where(word: str, parts: Mapping[str, Part], words: _LabelWords, counts: Mapping[str, Counter[str]]) -> str:
    split = next(split for split in counts if word in counts[split])
    row = parts[split].frame.index[words[split].index(word)]
    total = sum(count[word] for count in counts.values())
    return f"{word!r} ({total} {'row' if total == 1 else 'rows'}, first in {parts[split].place}, row {row})"


def _draw_parts(
    name: str, frames: dict[str, pd.DataFrame], request: StreamRequest[FolderOptions], problems: Problems
) -> None:
    """Draw the test and validation parts that are missing from the training part."""
    rows = len(frames["train"])
    for split, size, prefix in (
        ("test", request.options.test_size, "test "),
        ("valid", request.options.valid_size, ""),
    ):
        if split in frames:
            continue
        if split == "test" and size is None:
            return  # reported for all tasks at once
        classes = frames["train"]["label"].tolist()
        wanted, most = count_of(0.1 if size is None else size, rows), spare(classes)
        if size is None:
            wanted = min(wanted, most)
        if not most:
            problems.append(
                f"task {name}: no part {split} can be drawn, as each class has a single training example: give one"
            )
        elif wanted > most:
            problems.append(
                f"task {name}: {split}_size={size} asks for {wanted} of {rows} training examples, and {most} can be "
                "drawn if each class keeps one"
            )
        else:
            drawn = draw(classes, wanted, random.Random(f"{request.seed} {prefix}{name}"))
            frames[split] = frames["train"].iloc[drawn].reset_index(drop=True)
            frames["train"] = frames["train"].drop(index=drawn).reset_index(drop=True)


def count_of(size: Size, rows: int) -> int:
    """Return how many of `rows` examples a size asks for, at least one."""
    return int(size) if size >= 1 else max(1, math.floor(size * rows + 1e-9))


def draw(classes: Sequence[int], size: int, rng: random.Random) -> list[int]:
    """Return the positions of `size` examples, in order, drawn from each class in proportion.

    A class keeps at least one example. What is left over by rounding goes to the classes with the largest remainders.

    :param classes: the class of every example.
    :raises ValueError: the classes do not hold so many examples besides one each.
    """
    rows: dict[int, list[int]] = {}
    for i, label in enumerate(classes):
        rows.setdefault(label, []).append(i)
    if size > spare(classes):
        raise ValueError(f"only {spare(classes)} examples can be drawn")
    labels = sorted(rows)
    rng.shuffle(labels)  # so that among equal remainders chance decides
    shares = {label: size * len(rows[label]) / len(classes) for label in labels}
    taken = {label: min(int(shares[label]), len(rows[label]) - 1) for label in labels}
    while (left := size - sum(taken.values())) > 0:
        open_to_more = [label for label in labels if taken[label] < len(rows[label]) - 1]
        for label in sorted(open_to_more, key=lambda label: taken[label] - shares[label])[:left]:
            taken[label] += 1
    return sorted(i for label in labels for i in rng.sample(rows[label], taken[label]))


def spare(classes: Sequence[int]) -> int:
    """Return how many examples can be drawn such that every class keeps one."""
    return len(classes) - len(set(classes))
