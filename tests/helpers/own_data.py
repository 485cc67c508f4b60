"""Tiny data of a user, and a tokenizer that reads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nlpcl.benchmarks import text_benchmark


class Blank:
    """A tokenizer for tests that look at rows and labels only."""

    name_or_path = "blank"
    model_input_names = ("input_ids", "attention_mask")

    def __call__(self, texts: list[str], pairs: list[str] | None, max_length: int, **kwargs: Any) -> Any:
        ones = torch.ones(len(texts), max_length, dtype=torch.long)
        return {"input_ids": ones, "attention_mask": ones}


def frame(labels: Sequence[Any] = ("no", "yes") * 10) -> pd.DataFrame:
    """One row a label, each with a text of its own."""
    texts = [f"good cat {i}" for i in range(len(labels))]
    return pd.DataFrame({"text": texts, "label": pd.Series(list(labels), dtype=object)})


def lines(rows: Sequence[Sequence[Any]], separator: str = ",", header: Sequence[str] = ("text", "label")) -> str:
    """A file of rows that need no quotation marks."""
    return "".join(separator.join(map(str, row)) + "\n" for row in (header, *rows))


ROWS = [(f"good cat {i}", ("no", "yes")[i % 2]) for i in range(20)]


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Files by their path under `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def stream(tasks: Any, **options: Any) -> Any:
    """The benchmark, tokenised with `Blank`."""
    return text_benchmark(tasks, **{"tokenizer": Blank(), "max_length": 4, **options})


def one_task(train: Any, test: Any, **options: Any) -> Any:
    """The benchmark of a single task."""
    return stream({"a": {"train": train, "test": test}}, **options)
