"""Records as a run would write them, without a run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from nlpcl.records import Record
from nlpcl.spec import RunSpec

TASKS = ("laptop", "restaurant", "camera")
Matrix = list[list[float | None]]


@functools.cache
def _complete(strategy: str) -> RunSpec:
    return RunSpec.parse({"strategy": strategy, "tasks": len(TASKS), "train_size": 20}).filled()


def triangle(*rows: Sequence[float]) -> Matrix:
    """A matrix from the measured cells of each row, filled up with None."""
    return [[*row, *[None] * (len(rows) - len(row))] for row in rows]


def flat(final: float) -> Matrix:
    """A lower triangle that holds `final` in every cell, so that it is the average accuracy, too."""
    return triangle(*([final] * (i + 1) for i in range(len(TASKS))))


def record_of(
    strategy: str = "ncl",
    order: Any = 0,
    seed: int = 0,
    matrix: Matrix | float = 0.5,
    *,
    spec: dict[str, Any] | None = None,
    **parts: Any,
) -> Record:
    """A record of three tasks of `demo`.

    :param matrix: the accuracies, or the one that fills the triangle; macro-F1 is the same.
    :param spec: fields of the spec to change, after it was filled.
    :param parts: parts of the record to change.
    """
    scores = flat(matrix) if isinstance(matrix, float) else matrix
    fields = _complete(strategy).model_dump(mode="json", exclude_unset=True)
    tasks = [{"name": name, "labels": ["good", "bad"], "train": 20, "valid": 40, "test": 120} for name in TASKS]
    content: dict[str, Any] = {
        "status": "ok",
        "spec": {**fields, "order": order, "seed": seed, **(spec or {})},
        "data": {"tasks": tasks, "files": {}, "encoder": {"name": "minilm", "model.safetensors": "53aa"}},
        "sizes": {},
        "seeds": {"train": seed, "data": 0},
        "versions": {"nlpcl": "0.1.0"},
        "matrices": {"accuracy": scores, "macro_f1": scores},
        "measured": {},
    }
    return Record.model_validate({**content, **parts})
