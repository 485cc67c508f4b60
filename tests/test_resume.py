"""An interrupted run goes on to the very record that one never interrupted writes."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlpcl.config.spec import RunSpec
from nlpcl.records.record import Record
from nlpcl.registry import strategies
from nlpcl.runs.checkpoint import random_states
from nlpcl.runs.identity import identified
from nlpcl.runs.results import Results
from tests.helpers.contract import SLOW
from tests.helpers.runs import (
    ENTRIES,
    OURS,
    Killed,
    Moment,
    content,
    killed_at,
    run,
    spec_of,
)

THEIRS = [pytest.param(e.name, marks=[pytest.mark.full] if e.name in SLOW else []) for e in ENTRIES if not e.engine]
# Iterators over a loader; logits beside the examples; one training with nothing between tasks.
START_OVER = {"avalanche/AGEM", "avalanche/MIR", "avalanche/DER", "avalanche/JointTraining"}


STATES: dict[str, Any] = {}
"""Model and random states at the end of the last run here."""
RECORD = Results.record


def some(names: list[str], *often: str) -> list[Any]:
    """Parameters of a test; those not named `often` are for the full run."""
    return [pytest.param(name, marks=[] if name in often else [pytest.mark.full]) for name in names]


def noted(results: Results, error: str | None = None) -> Record:
    """What makes the record, after a look at the strategy."""
    model = results.strategy.model.state_dict()
    STATES["model"] = {name: value.clone() for name, value in model.items()}
    STATES["random"] = random_states(results.strategy.device)
    return RECORD(results, error)


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


@pytest.mark.parametrize("name", some(OURS, "ncl", "derpp", "cat", "ctr"))
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
