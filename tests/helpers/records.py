"""Records as a run would write them, without a run."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlpcl.config.encoders import MINILM_SHA256
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.leaderboard.submit import place_of
from nlpcl.records.record import Record
from nlpcl.registry import strategies

TASKS = ("laptop", "restaurant", "hotel")
Matrix = list[list[float | None]]


@functools.cache
def _complete(strategy: str) -> RunSpec:
    return resolve(RunSpec.parse({"strategy": strategy, "tasks": len(TASKS), "train_size": 20}))


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
    drawn = {"data_seed": seed, "spec_version": 2} if seed else {}
    names = [name for name in order if name in TASKS] if isinstance(order, list) else TASKS
    tasks = [
        {"name": name, "labels": ["positive", "negative"], "train": 20, "valid": 40, "test": 120} for name in names
    ]
    kept_bytes = [{"parameters": 40}] * (1 if strategies.get(strategy).protocol == "joint" else len(tasks))
    content: dict[str, Any] = {
        "status": "ok",
        "spec": {**fields, "order": order, "seed": seed, **drawn, **(spec or {})},
        "data": {"tasks": tasks, "files": {}, "encoder": {"name": "minilm", "model.safetensors": MINILM_SHA256}},
        "sizes": {"parameters": 10, "parameters_frozen_at_end": 0, "kept_bytes": kept_bytes},
        "seeds": {"train": seed, "data": seed},
        "versions": {"nlpcl": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "threads": "1"},
        "matrices": {"accuracy": scores, "macro_f1": scores},
        "measured": {},
    }
    return Record.model_validate({**content, **parts})


def learning(tasks: int, final: float, lost: float, rng: random.Random) -> Matrix:
    """A lower triangle of a run that ends near `final` and forgets about `lost` of each task."""
    best = [min(1.0, max(0.0, final + lost + rng.gauss(0, 0.03))) for _ in range(tasks)]
    rows = []
    for i in range(tasks):
        decay = [lost * (i - j) / max(1, tasks - 1 - j) for j in range(i + 1)]
        rows.append([min(1.0, max(0.0, best[j] - decay[j] + rng.gauss(0, 0.01))) for j in range(i + 1)])
    return triangle(*rows)


def file_many(
    results: Path,
    strategies: Sequence[str],
    protocols: Sequence[dict[str, Any]],
    *,
    orders: int,
    seeds: int,
    tasks: int = 5,
) -> int:
    """File plausible records of every strategy under every protocol; return their number.

    :param protocols: fields of the spec.
    """
    rng = random.Random(0)
    described = [
        {"name": f"domain {i}", "labels": ["-", "+"], "train": 20, "valid": 9, "test": 50} for i in range(tasks)
    ]
    host = {"cpu": "a processor", "cores": 2, "gpu": None}
    for protocol, (i, strategy) in itertools.product(protocols, enumerate(strategies)):
        for order, seed in itertools.product(range(orders), range(seeds)):
            scores = learning(tasks, 0.6 + 0.25 * i / len(strategies), 0.3 * (1 - i / len(strategies)), rng)
            train = [rng.uniform(1, 2) * (i + 1) for _ in range(tasks)]
            record = record_of(
                strategy, order, seed, scores, spec={"tasks": tasks, **protocol},
                data={"tasks": described, "files": {}, "encoder": {"name": "minilm"}},
                measured={"seconds": {"train": train, "total": sum(train)}, "host": host, "device": "cpu"},
            )  # fmt: skip
            record.save(results / place_of(record))
    return len(protocols) * len(strategies) * orders * seeds
