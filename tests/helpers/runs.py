"""Short runs of every strategy, and how one is killed at a chosen checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nlpcl.config.resolve import resolve
from nlpcl.config.spec import CompleteSpec, RunSpec
from nlpcl.records.record import Record
from nlpcl.registry import StrategyEntry, benchmarks, strategies
from nlpcl.runs import run as experiment
from nlpcl.runs.checkpoint_folder import NOW, CheckpointFolder
from nlpcl.runs.identity import identified
from tests.helpers.contract import SMALL, TEXT, small_options
from tests.helpers.images import tiny_images

ENTRIES = strategies.entries()
OURS = [entry.name for entry in ENTRIES if entry.engine]
EPOCHS = 2


def images(scenario: str, order: Any = 0, **rest: Any) -> Any:
    return tiny_images(scenario, (3, 2) if scenario == "cil" else (2, 2, 2))


# Put in the place of FEMNIST: a few tiny tasks.
TINY = replace(benchmarks.get("femnist"), target=images, scenarios=("til", "dil", "cil"))


def first_backbone(entry: StrategyEntry) -> str:
    if entry.scenarios == ("cil",):
        return "mlp"
    return next(name for name in ("bert_adapter", *TEXT, "mlp") if entry.backbones is None or name in entry.backbones)


class Killed(BaseException):
    """The process is no more."""


def spec_of(name: str, models: dict[str, str], **more: Any) -> tuple[CompleteSpec, str]:
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
    content |= {**SMALL.get(backbone, {}), **small_options(name)}
    content |= ({"clip_norm": 0.01} if entry.engine else {}) | more
    with benchmarks.replacing(TINY):
        return resolve(RunSpec.parse(content)), scenario


def run(spec: RunSpec, root: Path, out: Path) -> Record:
    with warnings.catch_warnings(), benchmarks.replacing(TINY):
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
    write = CheckpointFolder.write

    def dying(self: Any, part: str, tree: Any, tensors: Any, head: Any, older: Any) -> Path:
        nonlocal count
        count = count + 1 if part == NOW else 0
        now = (head.rows, count) == (done, number)
        if now and when == "before":
            raise Killed
        path = write(self, part, tree, tensors, head, older)
        if now and when == "amid":
            (path / "sums.json").write_text("{")
        if now:
            raise Killed
        return path

    monkeypatch.setattr(CheckpointFolder, "write", dying)


Started = tuple[CompleteSpec, Path, Record]


def interrupted_run(name: str, models: dict[str, str], three_tasks: dict[str, Path], root: Path) -> Started:
    """Return a spec, the folder of its run, which ended within the second task, and the record it should end with."""
    spec, scenario = spec_of(name, models)
    spec = identified(spec, three_tasks[scenario])
    whole = run(spec, three_tasks[scenario], root / "whole")
    with pytest.MonkeyPatch.context() as patch:
        killed_at((1, 4, "after"), patch)  # the 11th checkpoint: 6 steps and the end of a task are 7
        with pytest.raises(Killed):
            run(spec, three_tasks[scenario], root / "killed")
    return spec, root / "killed" / spec.id, whole
