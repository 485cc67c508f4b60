"""An interrupted run goes on to the very record that one never interrupted writes."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from nlpcl import checkpoint, experiment
from nlpcl.records import Record
from nlpcl.registry import StrategyEntry, strategies
from nlpcl.spec import RunSpec
from tests.test_contract import MEMORY, REPLAY, SLOW, SMALL, TEXT

OURS = [entry.name for entry in strategies.entries() if entry.engine and entry.name != "acl"]
THEIRS = [
    pytest.param(entry.name, marks=[pytest.mark.full] if entry.name in SLOW else [])
    for entry in strategies.entries()
    if not entry.engine and entry.scenarios != ("cil",)
]
# An iterator over a loader; logits of its own beside the examples; one training with nothing between tasks.
START_OVER = {"avalanche/AGEM", "avalanche/DER", "avalanche/JointTraining"}
EPOCHS = 2


def first_backbone(entry: StrategyEntry) -> str:
    return next(name for name in ("bert_adapter", *TEXT) if entry.backbones is None or name in entry.backbones)


class Killed(BaseException):
    """The process is no more."""


def spec_of(name: str, model: str) -> tuple[RunSpec, str]:
    entry = strategies.get(name)
    backbone, scenario = first_backbone(entry), entry.scenarios[0]
    content = {
        "benchmark": "folder",
        "strategy": name,
        "backbone": backbone,
        "scenario": scenario,
        "model": model,
        "max_length": 32,
        "train_batch_size": 8,
        "train_size": 24,
        "epochs": EPOCHS,
        **SMALL[backbone],
        **(MEMORY if name in REPLAY else {}),
    }
    return RunSpec.parse(content), scenario


def run(spec: RunSpec, root: Path, out: Path) -> Record:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return experiment.run(spec, data_root=root, out=out, device="cpu", checkpoint_minutes=1e-9)


def content(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude={"measured"})


def killed_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die at the `moment`-th point at which the run saves a checkpoint, before, while or after it does."""
    count = 0
    write = checkpoint.Folder.write

    def dying(self: Any, *args: Any, **kwargs: Any) -> Path:
        nonlocal count
        count += 1
        if count == moment:
            if moment % 3 == 0:
                raise Killed
            path = write(self, *args, **kwargs)
            if moment % 3 == 1:
                (path / "sums.json").write_text("{")
            raise Killed
        return write(self, *args, **kwargs)

    monkeypatch.setattr(checkpoint.Folder, "write", dying)


def check(name: str, moments: list[int], models: Any, folders: Any, tmp: Path, monkeypatch: Any) -> int:
    """Kill a run at the moments, one after another, and compare its end; how often it went on from a checkpoint."""
    said: list[str] = []
    monkeypatch.setattr(experiment._Job, "tell", lambda job, sentence: said.append(sentence))
    spec, scenario = spec_of(name, models[first_backbone(strategies.get(name))])
    whole = run(spec, folders[scenario], tmp / "whole")
    for moment in moments:
        with monkeypatch.context() as patch:
            killed_at(moment, patch)
            with pytest.raises(Killed):
                run(spec, folders[scenario], tmp / "killed")
    again = run(spec, folders[scenario], tmp / "killed")
    assert content(again) == content(whole)
    assert [path.name for path in (tmp / "killed" / spec.filled().id).iterdir()] == ["record.json"]
    assert not [sentence for sentence in said if "does not fit" in sentence]
    return again.measured.resumed


@pytest.mark.parametrize("name", OURS)
def test_a_killed_run_ends_as_one_never_killed(
    name: str, models: dict[str, str], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first task and again in the second; of the 14 checkpoints of a run, 7 are of each."""
    rng = random.Random(name)
    moments = [rng.randrange(2, 6), rng.randrange(6, 9)] if name != "mtl" else [5, 2]
    assert check(name, moments, models, folders, tmp_path, monkeypatch) >= 1


@pytest.mark.parametrize("name", THEIRS)
def test_avalanches_own_go_on_from_the_last_task(
    name: str, models: dict[str, str], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = check(name, [2] if name not in START_OVER else [], models, folders, tmp_path, monkeypatch)
    assert resumed == (0 if name in START_OVER else 1)
