"""A task of your own data: its parts are compared, its labels numbered, and missing parts drawn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from nlpcl.benchmarks import _labels
from nlpcl.benchmarks._labels import is_missing
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut
from nlpcl.benchmarks.folder._draws import TENTH, count_of, draw, spare
from nlpcl.benchmarks.folder._options import FolderOptions
from nlpcl.benchmarks.folder._problems import Problems
from nlpcl.benchmarks.folder._rows import Part, check_texts, words_in

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
    pairs = _has_pairs(name, parts, problems)
    words: _LabelWords = {}
    for split, part in parts.items():
        check_texts(part, ("text", "text_pair") if pairs else ("text",), problems)
        words[split] = words_in(part, "label", problems)
    labels = _labels_of(name, parts, words, problems)
    if len(problems) > before or len(parts) < len(readable) or "train" not in parts:
        return None
    index = {label: i for i, label in enumerate(labels)}
    frames = {}
    for split, part in parts.items():
        columns = {key: part.frame[key].to_numpy() for key in (("text", "text_pair") if pairs else ("text",))}
        frames[split] = pd.DataFrame({**columns, "label": [index[str(word)] for word in words[split]]})
    _draw_parts(name, frames, request, problems)
    if len(frames) < 3:
        return None
    train = shuffle_cut(frames["train"], request.train_size, request.seed)
    return TextTask(name, labels, train, frames["valid"], frames["test"])


def _has_pairs(name: str, parts: Mapping[str, Part], problems: Problems) -> bool:
    """Return whether the parts hold second texts: all of them, or none."""
    having = [part for part in parts.values() if "text_pair" in part.frame and _any_text(part)]
    lacking = [part for part in parts.values() if not any(part is other for other in having)]
    if having and lacking:
        problems.append(
            f"task {name}: {lacking[0].place} has no text_pair and {having[0].place} has: a task reads pairs in all of "
            "its parts or in none"
        )
    return bool(having) and not lacking


def _any_text(part: Part) -> bool:
    values = part.frame["text_pair"].tolist()
    return any(value.strip() if isinstance(value, str) else not is_missing(value) for value in values)


def _labels_of(name: str, parts: Mapping[str, Part], words: _LabelWords, problems: Problems) -> tuple[str, ...]:
    """Return the labels of the training part, in order; of floats the integers they are, also in `words`."""
    counts = {split: Counter(word for word in column if word is not None) for split, column in words.items()}
    every = list(dict.fromkeys(word for split in counts for word in counts[split]))
    if not every:
        return ()
    scores = {split: real for split in counts if (real := _labels.score_among(counts[split])) is not None}
    for split, real in scores.items():
        rows = [i for i, word in enumerate(words[split]) if word is not None and _labels.score_among([word])]
        parts[split].report(_labels.score_fault(real), rows, problems)
    if scores:
        return ()
    integers = _labels.as_integers(every)
    if integers:
        for split, column in words.items():
            words[split] = [None if word is None else integers[word] for word in column]
        counts = {split: Counter(word for word in column if word is not None) for split, column in words.items()}
        every = list(dict.fromkeys(integers.values()))
    if (several := _labels.combined(every)) is not None:
        place = _where(several, parts, words, counts)
        problems.append(f"task {name}: label {place} names several others: multi-label data are not supported")
    alike = _labels.alike(every)
    for group in alike:
        spellings = " and ".join(_where(word, parts, words, counts) for word in group)
        problems.append(f"task {name}: labels {spellings} differ only by blanks, case or notation: write them alike")
    if truths := _labels.truth_and_number(every):
        spellings = " and ".join(_where(word, parts, words, counts) for word in truths)
        problems.append(f"task {name}: labels {spellings} may be the same: write them alike")
    trained = counts.get("train")
    if not trained:
        return ()
    for split, part in parts.items():
        unknown = [word for word in counts[split] if word not in trained and not any(word in group for group in alike)]
        if unknown:
            others = [repr(word) for word in unknown[1:]]
            more = f", nor do {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}" if others else ""
            if unknown == ["-1"]:
                more = ": are the labels hidden? Take a part whose labels are known"
            strange = set(unknown)
            rows = [i for i, word in enumerate(words[split]) if word in strange]
            part.report(f"label {unknown[0]!r} does not occur in training{more}", rows, problems)
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
        wanted, most = count_of(TENTH if size is None else size, rows), spare(classes)
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
