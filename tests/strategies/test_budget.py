"""How many updates each method makes, against the table of docs/protocol.md."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from nlpcl.registry import strategies
from nlpcl.training.strategy import ContinualStrategy
from tests.helpers.runs import EPOCHS, run, spec_of


def documented_updates() -> dict[str, tuple[int, int]]:
    """For each strategy the updates on a mini-batch in an epoch: in the first task, and in later ones."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    table = page.split("## Epochs are not equal budgets")[1].split("\n## ")[0]
    found = {}
    for names, updates in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*) \|", table, flags=re.MULTILINE):
        later, *first = map(int, re.findall(r"(\d+) E B", updates))
        found |= dict.fromkeys(re.findall(r"\w+", names), (first[0] if first else later, later))
    return found


OURS = [entry.name for entry in strategies.entries() if entry.engine]


def test_the_table_has_every_method() -> None:
    assert sorted(documented_updates()) == OURS


@pytest.mark.parametrize("name", OURS)
def test_the_updates_that_the_docs_say(
    name: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    step = ContinualStrategy.optimizer_step

    def counted(strategy: Any) -> None:
        nonlocal count
        count += 1
        step(strategy)

    monkeypatch.setattr(ContinualStrategy, "optimizer_step", counted)
    spec, scenario = spec_of(name, models)
    record = run(spec, three_tasks.get(scenario, tmp_path), tmp_path / "out")
    assert isinstance(spec.epochs, int) and spec.train_batch_size is not None
    first, later = documented_updates()[name]
    batches = [math.ceil(task["train"] / spec.train_batch_size) for task in record.data["tasks"]]
    assert count == spec.epochs * (first * batches[0] + later * sum(batches[1:]))


@pytest.mark.parametrize("name", ["ncl", "mtl"])
def test_the_rate_counts_every_example_that_was_trained_on(
    name: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path
) -> None:
    spec, scenario = spec_of(name, models)
    record = run(spec, three_tasks[scenario], tmp_path)
    examples = sum(task["train"] for task in record.data["tasks"]) * EPOCHS
    assert record.measured.samples_per_second == pytest.approx(examples / sum(record.measured.seconds.train), abs=0.01)
