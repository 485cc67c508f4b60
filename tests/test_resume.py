"""An interrupted run goes on to the very record that one never interrupted writes."""

from __future__ import annotations

import multiprocessing
import random
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from nlpcl.config.spec import RunSpec
from nlpcl.records.record import Record
from nlpcl.registry import StrategyEntry, benchmarks, strategies
from nlpcl.runs import checkpoint
from nlpcl.runs import run as experiment
from nlpcl.runs.identity import identified
from nlpcl.runs.results import Results
from tests.models.test_image_cnn import tiny_images as three_images
from tests.strategies.test_avalanche import tiny_images
from tests.test_contract import MEMORY, REPLAY, SLOW, SMALL, TEXT

ENTRIES = strategies.entries()
OURS = [entry.name for entry in ENTRIES if entry.engine]
THEIRS = [pytest.param(e.name, marks=[pytest.mark.full] if e.name in SLOW else []) for e in ENTRIES if not e.engine]
# Iterators over a loader; logits beside the examples; one training with nothing between tasks.
START_OVER = {"avalanche/AGEM", "avalanche/MIR", "avalanche/DER", "avalanche/JointTraining"}
EPOCHS = 2


def images(scenario: str, order: Any = 0, **rest: Any) -> Any:
    return tiny_images(scenario) if scenario == "cil" else three_images(scenario, (2, 2, 2))


TINY = replace(benchmarks.get("femnist"), target=images, scenarios=("til", "dil", "cil"))
FEMNIST = patch.dict(benchmarks._entries, {"femnist": TINY})
"""Within it, FEMNIST is a few tiny tasks."""
STATES: dict[str, Any] = {}
"""Model and random states at the end of the last run here."""
RECORD = Results.record


def first_backbone(entry: StrategyEntry) -> str:
    if entry.scenarios == ("cil",):
        return "mlp"
    return next(name for name in ("bert_adapter", *TEXT, "cnn") if entry.backbones is None or name in entry.backbones)


def some(names: list[str], *often: str) -> list[Any]:
    """Parameters of a test; those not named `often` are for the full run."""
    return [pytest.param(name, marks=[] if name in often else [pytest.mark.full]) for name in names]


class Killed(BaseException):
    """The process is no more."""


def spec_of(name: str, models: dict[str, str], **more: Any) -> tuple[RunSpec, str]:
    """The spec of a short run of a strategy, and its scenario. Its gradients are clipped, whatever their size."""
    entry = strategies.get(name)
    backbone, scenario = more.get("backbone", first_backbone(entry)), more.get("scenario", entry.scenarios[0])
    content = {"strategy": name, "backbone": backbone, "scenario": scenario, "epochs": EPOCHS, "train_batch_size": 8}
    if backbone in models:
        content |= {"benchmark": "folder", "model": models[backbone], "max_length": 32}
    else:
        content |= {"benchmark": "femnist", "backbone_options": {"hidden": 64}}
    if name == "acl":
        content |= {"epochs": 1}  # each mini-batch is five steps
    if name == "avalanche/RWalk":
        content |= {"options": {"delta_t": 2}}  # at least once in the few steps there are
    content |= {**SMALL.get(backbone, {}), **(MEMORY if name in REPLAY else {})}
    content |= ({"clip_norm": 0.01} if entry.engine else {}) | more
    with FEMNIST:
        return RunSpec.parse(content).filled(), scenario


def noted(results: Results, error: str | None = None) -> Record:
    """What makes the record, after a look at the strategy."""
    model = results.strategy.model.state_dict()
    STATES["model"] = {name: value.clone() for name, value in model.items()}
    STATES["random"] = checkpoint.random_states(results.device)
    return RECORD(results, error)


def run(spec: RunSpec, root: Path, out: Path) -> Record:
    with warnings.catch_warnings(), FEMNIST:
        warnings.simplefilter("ignore")
        return experiment.run(spec, data_root=root, out=out, device="cpu", checkpoint_minutes=1e-9)


def content(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude={"measured"})


Moment = tuple[int, int, str]
"""Tasks that are done, the checkpoint since (0: the one between tasks), and whether death comes `before` it is written,
`amid`, so that it is damaged, or `after`."""


def killed_at(moment: Moment, monkeypatch: pytest.MonkeyPatch) -> None:
    done, number, when = moment
    count = 0
    write = checkpoint.CheckpointFolder.write

    def dying(self: Any, part: str, tree: Any, tensors: Any, facts: Any, older: Any) -> Path:
        nonlocal count
        count = count + 1 if part == checkpoint.NOW else 0
        now = (facts["rows"], count) == (done, number)
        if now and when == "before":
            raise Killed
        path = write(self, part, tree, tensors, facts, older)
        if now and when == "amid":
            (path / "sums.json").write_text("{")
        if now:
            raise Killed
        return path

    monkeypatch.setattr(checkpoint.CheckpointFolder, "write", dying)


def same(a: Any, b: Any) -> bool:
    """Whether two trees of states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return bool(np.array_equal(a, b))


def check(spec: RunSpec, root: Path, moments: Sequence[Moment], tmp: Path, monkeypatch: Any) -> int:
    """Kill a run at the moments, one after another, and compare its end; how often it went on from a checkpoint."""
    monkeypatch.setattr(Results, "record", noted)
    spec = identified(spec, root)
    whole = run(spec, root, tmp / "whole")
    states = dict(STATES)
    for moment in moments:
        with monkeypatch.context() as dying:
            killed_at(moment, dying)
            with pytest.raises(Killed):
                run(spec, root, tmp / "killed")
    again = run(spec, root, tmp / "killed")
    assert content(again) == content(whole)
    differ = [name for name, value in states["model"].items() if not same(value, STATES["model"][name])]
    assert not differ
    assert same(states["random"], STATES["random"])
    assert [path.name for path in (tmp / "killed" / spec.id).iterdir()] == ["record.json"]
    return again.measured.resumed


MOMENTS: tuple[Moment, ...] = ((0, 3, "amid"), (1, 0, "after"), (1, 3, "after"), (2, 0, "after"), (2, 2, "before"))
JOINT: tuple[Moment, ...] = ((0, 5, "after"), (0, 4, "amid"), (0, 2, "before"))


@pytest.mark.parametrize("name", OURS)
def test_a_killed_run_ends_as_one_never_killed(
    name: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within each task and between each two, always in the run that has gone on after the last death."""
    spec, scenario = spec_of(name, models)
    moments = JOINT if strategies.get(name).protocol == "joint" else MOMENTS
    assert check(spec, three_tasks.get(scenario, tmp_path), moments, tmp_path, monkeypatch) == len(moments)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("hat", {"options": {"parity": True}, "schedule": "linear"}),
        ("classic", {"scenario": "dil", "precision": "bf16"}),
        ("ewc", {"precision": "fp16", "eval": "full"}),
        ("derpp", {"best_epoch": True, "eval": "final"}),
        ("kan", {"schedule": "plateau", "patience": 1}),
    ],
)
def test_a_killed_run_of_other_settings_does_so_too(
    name: str,
    more: dict[str, Any],
    models: dict[str, str],
    three_tasks: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, scenario = spec_of(name, models, **more)
    assert check(spec, three_tasks.get(scenario, tmp_path), MOMENTS, tmp_path, monkeypatch) == len(MOMENTS)


@pytest.mark.parametrize("name", THEIRS)
def test_avalanches_own_go_on_from_the_last_task(
    name: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, scenario = spec_of(name, models)
    moments: Sequence[Moment] = () if name in START_OVER else ((1, 0, "after"),)
    resumed = check(spec, three_tasks.get(scenario, tmp_path), moments, tmp_path, monkeypatch)
    assert resumed == len(moments)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have loaded what a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_resume"])
    return context


def in_a_process(spec: RunSpec, root: Path, out: Path) -> None:
    torch.set_num_threads(1)
    run(spec, root, out)


@pytest.mark.parametrize("name", some(OURS, "ncl", "ewc", "derpp", "kan", "owm", "cat", "ctr"))
def test_killed_by_sigkill_at_random_moments(
    name: str, processes: Any, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path
) -> None:
    """Three processes are killed at random moments of what the whole run takes, then one may end."""
    spec, scenario = spec_of(name, models)
    root = three_tasks.get(scenario, tmp_path)
    spec = identified(spec, root)
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
