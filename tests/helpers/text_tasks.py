"""Tiny tasks of texts, each decided by one word."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd

from nlpcl.benchmarks import TextTask
from tests.helpers.encoders import WORDS


def make_frame(n: int, seed: int, flip: bool, n_classes: int) -> pd.DataFrame:
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        label = rng.randrange(n_classes)
        word = ("good", "bad", "hot")[(1 - label) if flip and label < 2 else label]
        filler = rng.choices(WORDS[2:8] + WORDS[10:], k=rng.randrange(1, 12))
        filler.insert(rng.randrange(len(filler) + 1), word)
        rows.append({"text": rng.choice(["cat", "dog"]), "text_pair": " ".join(filler), "label": label})
    return pd.DataFrame(rows)


def make_tasks(classes: tuple[int, ...] = (2, 3), n: int = 64, flip: bool = True) -> list[TextTask]:
    """Tasks decided by one word; with `flip` its meaning is turned round in every second one."""
    names = ("positive", "negative", "neutral")
    return [
        TextTask(
            f"task{i}",
            names[:c],
            make_frame(n, 10 * i, flip and i % 2 == 1, c),
            make_frame(16, 10 * i + 1, flip and i % 2 == 1, c),
            make_frame(32, 10 * i + 2, flip and i % 2 == 1, c),
        )
        for i, c in enumerate(classes)
    ]


def written(tasks: list[TextTask], root: Path) -> Path:
    """A folder with the files of tasks."""
    for task in tasks:
        (root / task.name).mkdir()
        for split in ("train", "valid", "test"):
            getattr(task, split).to_csv(root / task.name / f"{split}.csv", index=False)
    return root
