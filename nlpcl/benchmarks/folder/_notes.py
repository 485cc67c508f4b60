"""Write notes on data that can be used as they are but may spoil a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from nlpcl.benchmarks._labels import INTEGER, clashes, doubts
from nlpcl.benchmarks._text import TextTask
from nlpcl.benchmarks.folder._problems import listed


def notes_on(tasks: Sequence[TextTask], scenario: str) -> list[str]:
    """Return a sentence for each thing that may spoil a result: texts in two parts, labels that look alike."""
    notes = [note for task in tasks for note in _of_task(task)]
    pairs = [task.name for task in tasks if "text_pair" in task.train]
    if pairs and len(pairs) < len(tasks):
        notes.append(f"pairs of texts in {listed(pairs)}, single texts in the other tasks")
    if scenario == "til":
        notes += [f"{conflict}; each task has a head of its own" for conflict in label_conflicts(tasks, "dil")]
    else:
        head = list(dict.fromkeys(label for task in tasks for label in task.labels))
        for labels, why in doubts(head):
            if not any(set(labels) <= set(task.labels) for task in tasks):
                notes.append(f"labels {_quoted(labels)} of different tasks {why}")
    numbers = [label for task in tasks for label in task.labels if INTEGER.fullmatch(label)]
    if scenario == "dil" and numbers and len({task.labels for task in tasks}) > 1:
        notes.append(
            f"the tasks have different labels, matched by name: {numbers[0]} must mean the same in each that has it"
        )
    return notes


def label_conflicts(tasks: Sequence[TextTask], scenario: str) -> list[str]:
    """Return a sentence for each label that tasks with one head spell differently."""
    if scenario == "til":
        return []
    head = list(dict.fromkeys(label for task in tasks for label in task.labels))
    return [f"labels {_quoted(group)} of different tasks {why}" for group, why in clashes(head)]


def missing_parts(train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Return a sentence for each part that tasks lack.

    :param train: the tasks without a training part.
    :param test: those without a test part.
    """
    sentences = []
    for tasks, part, offer in ((train, "train", ""), (test, "test", "; test_size=0.2 would draw one from train")):
        if tasks:
            of = f"task {tasks[0]}" if len(tasks) == 1 else f"tasks {listed(tasks)}"
            sentences.append(f"{of}: there is no part {part}{offer}")
    return sentences


def drawn(part: str, tasks: Sequence[str], size: object, seed: int, of: int) -> str:
    """Return the sentence that says that a part was drawn.

    :param tasks: those that lack the part.
    :param size: as it was asked for; None: a tenth.
    :param of: number of all tasks.
    """
    whose = "every task" if len(tasks) == of else listed(tasks)
    share = "a tenth" if size is None else f"{part}_size={size}"
    return f"the part {part} of {whose} is drawn from train ({share}, each class in proportion, seed {seed})"


def _of_task(task: TextTask) -> Iterator[str]:
    if len(task.labels) == 1:
        yield f"{task.name}: one label only, {task.labels[0]!r}"
    if len(task.labels) > max(20, len(task.train) // 2):
        yield f"{task.name}: {len(task.labels)} labels for {len(task.train)} training examples; are they scores?"
    trained_labels = set(task.train["label"])
    untrained = [label for i, label in enumerate(task.labels) if i not in trained_labels]
    if untrained:
        yield f"{task.name}: no training example of {listed(untrained)} is left by train_size"
    for meant, why in doubts(task.labels):
        yield f"{task.name}: label{'' if len(meant) == 1 else 's'} {_quoted(meant)} {why}"
    columns = [column for column in ("text", "text_pair") if column in task.train]
    texts = {split: _keys(getattr(task, split), columns) for split in ("train", "valid", "test")}
    trained = set(texts["train"])
    for split, words in (("test", "test"), ("valid", "validation")):
        twice = sum(key in trained for key in texts[split])
        if twice:
            yield f"{task.name}: {twice} of {len(texts[split])} {words} texts occur in training, too"
    if len(trained) < len(texts["train"]):
        labels = pd.DataFrame({"key": texts["train"], "label": task.train["label"]}).drop_duplicates()
        several = labels.loc[labels["key"].duplicated(), "key"].nunique()
        if several:
            yield f"{task.name}: {several} training texts occur with different labels"


def _keys(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    first, *second = (frame[column].tolist() for column in columns)
    return ["\0".join(pair) for pair in zip(first, second[0], strict=True)] if second else first


def _quoted(words: Sequence[str]) -> str:
    return " and ".join(map(repr, words))
