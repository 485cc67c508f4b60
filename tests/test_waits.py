"""On a GPU the host runs ahead: within an epoch nothing it does waits for the device."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from avalanche.core import SupervisedPlugin

from nlpcl.registry import backbones, benchmarks, strategies
from nlpcl.runs import run as experiment
from nlpcl.runs.fit import fit
from nlpcl.training.strategy import ContinualStrategy
from tests.helpers.contract import SLOW
from tests.helpers.fake_gpu import GPU, fake_gpu
from tests.helpers.runs import ENTRIES, OURS, TINY, first_backbone, spec_of

ALLOWED = {"gem": "gem.py: a copy to the host"}  # once a step: its quadratic programme is solved there
PAIRS = [
    pytest.param(name, backbone, marks=[] if backbone == first_backbone(strategies.get(name)) else [pytest.mark.full])
    for name in OURS
    for backbone in strategies.get(name).backbones or [entry.name for entry in backbones.entries()]
]
# Of two the number of steps depends on values.
THEIRS = [e.name for e in ENTRIES if not e.engine and e.name not in {*SLOW, "avalanche/ICaRL", "avalanche/CoPE"}]


class Careless(SupervisedPlugin[Any]):
    """Does at every step what must not be done."""

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        float(strategy.loss)
        torch.arange(3).to(strategy.device)
        strategy.mb_x[strategy.mb_x > 0]
        strategy.mb_x[strategy.mb_x > 0] = 0
        strategy.mb_y[torch.arange(2)]
        strategy.mb_y.clone().copy_(torch.zeros(strategy.mb_y.shape))
        torch.zeros(strategy.mb_y.shape).copy_(strategy.mb_y)
        strategy.mb_y.tolist()


def waits_of(
    name: str, backbone: str, models: dict[str, str], roots: dict[str, Path], *plugins: Callable[[], Any]
) -> tuple[list[str], int]:
    """Train and test a strategy on two short tasks.

    :return: what the host waited for within the epochs of training and test, and the number of training steps.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: list[str] = []
    spec, scenario = spec_of(name, models, backbone=backbone, epochs=1, train_size=16, tasks=2)
    with benchmarks.replacing(TINY), fake_gpu() as gpu:

        def watched(epoch: Callable[..., None]) -> Callable[..., None]:
            def run(strategy: Any, **kwargs: Any) -> None:
                before = len(gpu.waits)
                epoch(strategy, **kwargs)
                found.extend(gpu.waits[before:])

            return run

        both = {name: watched(getattr(ContinualStrategy, name)) for name in ("training_epoch", "eval_epoch")}
        # A number that is read there is none, so no loss is looked at.
        with patch.multiple(ContinualStrategy, check_losses=lambda self: None, **both):
            benchmark, strategy = experiment.setup(
                spec, data_root=roots.get(scenario), device=torch.device(GPU, 0), plugins=[make() for make in plugins]
            )
            fit(strategy, benchmark)
    return found, strategy.clock.train_iterations


@pytest.fixture(scope="module")
def process() -> Iterator[Executor]:
    """A process that knows the device."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_nothing_in_an_epoch_waits_for_the_device(
    name: str, backbone: str, process: Executor, models: dict[str, str], three_tasks: dict[str, Path]
) -> None:
    waits, steps = process.submit(waits_of, name, backbone, models, three_tasks).result()
    assert steps >= 4
    assert {*waits} <= {ALLOWED.get(name)}
    assert len(waits) < steps


def test_what_waits_is_seen(process: Executor, models: dict[str, str], three_tasks: dict[str, Path]) -> None:
    waits, steps = process.submit(waits_of, "ncl", "bert_adapter", models, three_tasks, Careless).result()
    once = ["a value", "a copy from pageable memory", "a mask as index", "a write by index", "an index of the host's"]
    once += ["a copy in place"] * 2 + ["a value"] * 8  # of a mini-batch's labels
    assert waits == [f"test_waits.py: {what}" for what in once] * steps


@pytest.mark.full
@pytest.mark.parametrize("name", THEIRS)
def test_avalanches_own_run_on_such_a_device(
    name: str, process: Executor, models: dict[str, str], three_tasks: dict[str, Path]
) -> None:
    """Their loops do wait, but all lies where it belongs."""
    _, steps = process.submit(waits_of, name, first_backbone(strategies.get(name)), models, three_tasks).result()
    assert steps > 0
