"""An interrupted run goes on to the very record that one never interrupted writes."""

from __future__ import annotations

import multiprocessing
import random
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from nlpcl import checkpoint, experiment
from nlpcl.records import Record
from nlpcl.registry import StrategyEntry, benchmarks, strategies
from nlpcl.spec import RunSpec
from tests.strategies.test_avalanche import tiny_images
from tests.test_contract import MEMORY, REPLAY, SLOW, SMALL, TEXT

ENTRIES = strategies.entries()
OURS = [entry.name for entry in ENTRIES if entry.engine]
THEIRS = [pytest.param(e.name, marks=[pytest.mark.full] if e.name in SLOW else []) for e in ENTRIES if not e.engine]
# Iterators over a loader; logits beside the examples; one training with nothing between tasks.
START_OVER = {"avalanche/AGEM", "avalanche/MIR", "avalanche/DER", "avalanche/JointTraining"}
EPOCHS = 2


def images(scenario: str, order: Any = 0, **rest: Any) -> Any:
    return tiny_images(scenario)


TINY = replace(benchmarks.get("femnist"), target=images, scenarios=("til", "dil", "cil"))
FEMNIST = patch.dict(benchmarks._entries, {"femnist": TINY})
"""Within it, FEMNIST is two tiny tasks."""


def first_backbone(entry: StrategyEntry) -> str:
    if entry.scenarios == ("cil",):
        return "mlp"
    return next(name for name in ("bert_adapter", *TEXT, "cnn") if entry.backbones is None or name in entry.backbones)


def some(names: list[str], *often: str) -> list[Any]:
    """Parameters of a test; those not named `often` are for the full run."""
    return [pytest.param(name, marks=[] if name in often else [pytest.mark.full]) for name in names]


class Killed(BaseException):
    """The process is no more."""


def spec_of(name: str, models: dict[str, str]) -> tuple[RunSpec, str]:
    """The spec of a short run of a strategy, and its scenario."""
    entry = strategies.get(name)
    backbone, scenario = first_backbone(entry), entry.scenarios[0]
    content = {"strategy": name, "backbone": backbone, "scenario": scenario, "epochs": EPOCHS, "train_batch_size": 8}
    if backbone in models:
        content |= {"benchmark": "folder", "model": models[backbone], "max_length": 32, "train_size": 24}
    else:
        content |= {"benchmark": "femnist", "backbone_options": {"hidden": 64}}
    if name == "avalanche/RWalk":
        content |= {"options": {"delta_t": 2}}  # at least once in the few steps there are
    content |= {**SMALL.get(backbone, {}), **(MEMORY if name in REPLAY else {})}
    with FEMNIST:
        return RunSpec.parse(content).filled(), scenario


def run(spec: RunSpec, root: Path, out: Path) -> Record:
    with warnings.catch_warnings(), FEMNIST:
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
    spec, scenario = spec_of(name, models)
    root = folders.get(scenario, tmp)
    whole = run(spec, root, tmp / "whole")
    for moment in moments:
        with monkeypatch.context() as dying:
            killed_at(moment, dying)
            with pytest.raises(Killed):
                run(spec, root, tmp / "killed")
    again = run(spec, root, tmp / "killed")
    assert content(again) == content(whole)
    assert [path.name for path in (tmp / "killed" / spec.id).iterdir()] == ["record.json"]
    assert not [sentence for sentence in said if "does not fit" in sentence]
    return again.measured.resumed


@pytest.mark.parametrize("name", some(OURS, "ctr", "derpp", "mtl"))
def test_a_killed_run_ends_as_one_never_killed(
    name: str, models: dict[str, str], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first task and again in the second; of the 14 checkpoints of a run on texts, 7 are of each."""
    rng = random.Random(name)
    moments = [rng.randrange(2, 6), rng.randrange(6, 9)] if name != "mtl" else [5, 2]
    assert check(name, moments, models, folders, tmp_path, monkeypatch) >= 1


@pytest.mark.parametrize("name", THEIRS)
def test_avalanches_own_go_on_from_the_last_task(
    name: str, models: dict[str, str], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = check(name, [2] if name not in START_OVER else [], models, folders, tmp_path, monkeypatch)
    assert resumed == (0 if name in START_OVER else 1)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have loaded what a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_resume"])
    return context


def in_a_process(spec: RunSpec, root: Path, out: Path) -> None:
    torch.set_num_threads(1)
    run(spec, root, out)


@pytest.mark.parametrize("name", some(OURS, *(name for name in OURS if name != "acl")))
def test_killed_by_sigkill_at_random_moments(
    name: str, processes: Any, models: dict[str, str], folders: dict[str, Path], tmp_path: Path
) -> None:
    """Three processes are killed at random moments of what the whole run takes, then one may end."""
    spec, scenario = spec_of(name, models)
    root = folders.get(scenario, tmp_path)
    rng = random.Random(name)

    def process(out: str, kill_after: float | None) -> tuple[int | None, float]:
        child = processes.Process(target=in_a_process, args=(spec, root, tmp_path / out))
        child.start()
        begun = time.monotonic()
        child.join(kill_after)
        if kill_after is not None:
            child.kill()
        child.join()
        return child.exitcode, time.monotonic() - begun

    code, seconds = process("whole", None)
    assert code == 0
    record = tmp_path / "killed" / spec.id / "record.json"
    deaths = [process("killed", seconds * rng.uniform(0.2, 0.9))[0] for _ in range(3)]
    assert -9 in deaths
    if not record.exists():
        assert process("killed", None)[0] == 0
    assert content(Record.load(record)) == content(Record.load(tmp_path / "whole" / spec.id / "record.json"))
