"""Two processes train what one trains, and end together."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from nlpcl import experiment
from nlpcl.errors import UsageError
from nlpcl.models.task_transfer import TaskTransfer
from nlpcl.registry import check_processes, strategies
from nlpcl.spec import RunSpec
from nlpcl.strategies.base import ContinualStrategy
from tests.test_contract import MEMORY, REPLAY, SMALL
from tests.test_resume import first_backbone

TOGETHER = [entry.name for entry in strategies.entries() if entry.ddp]
TESTED = 32
"""Examples in each test set of the `folders`."""


def spec_of(name: str, encoder: str) -> RunSpec:
    """20 steps of a method, 10 on either task, of which 2 have a single example."""
    entry = strategies.get(name)
    backbone = first_backbone(entry)
    options = {**SMALL[backbone]["backbone_options"], "dropout": 0.0}
    content = {"strategy": name, "backbone": backbone, "scenario": entry.scenarios[0], "benchmark": "folder"}
    content |= {"model": encoder, "max_length": 32, "train_size": 33, "train_batch_size": 8, "epochs": 2}
    # UCL's L1 norm has no derivative where a weight has not moved: there rounding decides on a step, so it is small.
    content |= {"learning_rate": 1e-3 if name == "ucl" else 1e-2, "backbone_options": options}
    return RunSpec.parse({**content, **(MEMORY if name in REPLAY else {})})


def without_noise(logits: Tensor, tau: float = 1.0, hard: bool = False) -> Tensor:
    """Straight-through softmax, in the place of `gumbel_softmax`."""
    soft = logits.softmax(dim=-1)
    return F.one_hot(soft.argmax(dim=-1), soft.shape[-1]) + soft - soft.detach()


def run_all(names: list[str], encoder: str, roots: dict[str, Path], out: Path) -> None:
    """Parameters that were trained and matrices of each method, without dropout and sampling noise."""
    transfer = patch.object(TaskTransfer.__init__, "__defaults__", (0.0,))
    noise = patch.object(torch, "randn_like", torch.zeros_like), patch.object(F, "gumbel_softmax", without_noise)
    built: list[Any] = []
    losses: list[float] = []
    build, iterated = experiment.build_strategy, ContinualStrategy._after_training_iteration

    def spy(*args: Any, **kwargs: Any) -> Any:
        built.append(build(*args, **kwargs))
        return built[-1]

    def note(strategy: ContinualStrategy, **kwargs: Any) -> None:
        losses.append(float(strategy.loss.detach()))
        iterated(strategy, **kwargs)

    spies = (
        patch.object(experiment, "build_strategy", spy),
        patch.object(ContinualStrategy, "_after_training_iteration", note),
    )
    with transfer, noise[0], noise[1], spies[0], spies[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            losses.clear()
            spec = spec_of(name, encoder)
            record = experiment.run(spec, data_root=roots[spec.scenario], out=None, device="cpu", eval_batch_size=8)
            model: nn.Module = built.pop().model
            save_file({n: p.detach().clone() for n, p in model.named_parameters()}, out / f"{name}.safetensors")
            found = {"accuracy": record.matrices.accuracy, "macro_f1": record.matrices.macro_f1, "losses": losses}
            (out / f"{name}.json").write_text(json.dumps(found))


def as_one_of(rank: int, processes: int, port: int, names: list[str], encoder: str, roots: Any, out: Path) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("localhost", port, processes, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    run_all(names, encoder, roots, out / str(rank))
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def processes() -> Any:
    """Makes processes that have loaded what a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_distributed"])
    return context


@pytest.fixture(scope="module")
def trained(processes: Any, tiny: str, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every method that says `ddp` trains in one process (`alone`) and in two (`0` and `1`)."""
    out = tmp_path_factory.mktemp("trained")
    encoder = out / "encoder"
    shutil.copytree(tiny, encoder)
    config = json.loads((encoder / "config.json").read_text())
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps({**config, **off}))
    for folder in ("alone", "0", "1"):
        (out / folder).mkdir()
    port = free_port()
    both = [
        processes.Process(target=as_one_of, args=(rank, 2, port, TOGETHER, str(encoder), folders, out))
        for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    run_all(TOGETHER, str(encoder), folders, out / "alone")
    return out


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_what_one_trains(name: str, trained: Path) -> None:
    alone, first, second = (load_file(trained / folder / f"{name}.safetensors") for folder in ("alone", "0", "1"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    for key, p in alone.items():
        torch.testing.assert_close(first[key], p, atol=1e-4, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
    found = [json.loads((trained / folder / f"{name}.json").read_text()) for folder in ("alone", "0", "1")]
    assert found[1] == found[2]
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], abs=1e-4)
    for one, two in zip(found[0]["accuracy"], found[1]["accuracy"], strict=True):
        for a, b in zip(one, two, strict=True):
            assert (a is None) == (b is None)
            assert a is None or abs(a - b) <= 1.001 / TESTED


@pytest.mark.parametrize("name", [entry.name for entry in strategies.entries() if not entry.ddp])
def test_others_are_refused_with_the_reason(name: str) -> None:
    entry = strategies.get(name)
    check_processes(entry, 1)
    with pytest.raises(UsageError, match="does not run in 2 processes") as refused:
        check_processes(entry, 2)
    assert entry.ddp_reason and entry.ddp_reason in str(refused.value)
