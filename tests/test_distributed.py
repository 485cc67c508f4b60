"""Two processes train what one trains, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
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

from nlpcl.config.spec import RunSpec
from nlpcl.records.record import Record
from nlpcl.registry import check_processes, strategies
from nlpcl.runs import run as experiment
from nlpcl.strategies.cat.task_transfer import TaskTransfer
from nlpcl.training.strategy import ContinualStrategy
from tests.helpers.contract import MEMORY, REPLAY, SMALL
from tests.helpers.messages import mentions, refused
from tests.helpers.processes import free_port, run_two
from tests.helpers.runs import first_backbone

TOGETHER = [entry.name for entry in strategies.entries() if entry.ddp]
VARIANTS: dict[str, dict[str, Any]] = {
    "ncl, best epoch": {"best_epoch": True, "schedule": "plateau", "patience": 1, "epochs": 3},
    "ncl, clipped": {"clip_norm": 0.1, "schedule": "linear"},
    "ucl, parity": {"options": {"parity": True}, "learning_rate": 1e-3},
    "classic, domains": {"scenario": "dil"},
}
TESTED = 32
"""Examples in each test set of the `folders`."""


def spec_of(name: str, encoder: str) -> RunSpec:
    """20 steps of a method, 10 on either task: shares of 2 and of 1 example, and in the end of 1 and of none."""
    entry = strategies.get(name.partition(",")[0])
    backbone = first_backbone(entry)
    options = {**SMALL[backbone]["backbone_options"], "dropout": 0.0}
    content = {"strategy": entry.name, "backbone": backbone, "scenario": entry.scenarios[0], "benchmark": "folder"}
    content |= {"model": encoder, "max_length": 32, "train_size": 28, "train_batch_size": 3, "epochs": 1}
    # UCL's L1 norm has no derivative where a weight has not moved: there rounding decides on a step, so it is small.
    content |= {"learning_rate": 1e-3 if name == "ucl" else 1e-2, "backbone_options": options}
    return RunSpec.parse({**content, **(MEMORY if name in REPLAY else {}), **VARIANTS.get(name, {})})


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
    build, step = experiment.build_strategy, ContinualStrategy.optimizer_step

    def spy(*args: Any, **kwargs: Any) -> Any:
        built.append(build(*args, **kwargs))
        return built[-1]

    def note(strategy: ContinualStrategy, **kwargs: Any) -> None:
        losses.append(float(strategy.loss.detach()))
        step(strategy, **kwargs)

    spies = (
        patch.object(experiment, "build_strategy", spy),
        patch.object(ContinualStrategy, "optimizer_step", note),
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
    names, port = [*TOGETHER, *VARIANTS], free_port()
    both = [
        processes.Process(target=as_one_of, args=(rank, 2, port, names, str(encoder), folders, out)) for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    run_all(names, str(encoder), folders, out / "alone")
    return out


@pytest.mark.parametrize("name", [*TOGETHER, *VARIANTS])
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
    with refused(f"{name} 2") as caught:
        check_processes(entry, 2)
    assert entry.ddp_reason and entry.ddp_reason in str(caught.value)


def test_stopped_and_killed_runs_go_on_to_the_same_record(
    processes: Any, tiny: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """With dropout: a process is killed, then another one asked to stop; in the end it is as if neither had been."""
    line = ["run", "--benchmark", "folder", "--data-root", str(folders["til"]), "--model", tiny, "--max-length", "32"]
    line += ["--strategy", "derpp", "--train-size", "24", "--train-batch-size", "8", "--epochs", "2"]
    line += ["--set", "adapter_size=8", "--set", "memory_share=0.25", "--device", "cpu", "--checkpoint-minutes", "1e-9"]

    def run(out: str, dies: Any = (None, None)) -> tuple[list[Any], list[str]]:
        return run_two(processes, [[*line, "--out", str(tmp_path / out)]] * 2, tmp_path, dies)

    codes, said = run("whole")
    assert codes == [0, 0]
    assert said[0].count("record: ") == 1 and said[1] == ""
    codes, said = run("killed", ((4, signal.SIGKILL), None))
    assert codes == [-signal.SIGKILL, 2]
    codes, said = run("killed", (None, (5, signal.SIGTERM)))
    assert codes == [130, 130]
    assert mentions(said[0], "checkpoint 0 1 3")
    assert mentions(said[0], "stopped") and said[1] == ""
    assert run("killed")[0] == [0, 0]
    whole, killed = (list((tmp_path / out).rglob("*.*")) for out in ("whole", "killed"))
    assert [path.name for path in whole] == [path.name for path in killed] == ["record.json"]
    first, second = Record.load(whole[0]), Record.load(killed[0])
    assert first.model_dump(exclude={"measured"}) == second.model_dump(exclude={"measured"})
    assert (first.measured.processes, second.measured.processes, second.measured.resumed) == (2, 2, 2)


def test_what_stops_one_stops_all_and_is_said_once(
    processes: Any, tiny: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    line = ["run", "--benchmark", "folder", "--model", tiny, "--device", "cpu", "--out", str(tmp_path / "runs")]
    line += ["--max-length", "32"]
    roots = [["--data-root", str(folders["til"])], ["--data-root", str(tmp_path / "nowhere")]]
    codes, said = run_two(processes, [line + root for root in roots], tmp_path)
    assert codes == [2, 2]
    assert said[0].startswith("nlpcl: error: ") and "nowhere" in said[0] and said[0].count("\n") == 1 and said[1] == ""
    codes, said = run_two(processes, [[*line, *roots[0], "--strategy", "hal"]] * 2, tmp_path)
    assert codes == [2, 2]
    assert said[0].startswith("nlpcl: error: ") and mentions(said[0], "hal 2") and said[1] == ""
    assert not (tmp_path / "runs").exists()


def test_torchrun(tiny: str, tmp_path: Path) -> None:
    line = "--benchmark demo --strategy hat --tasks 2 --train-size 16 --epochs 1 --device cpu --set adapter_size=8"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [*torchrun, "-m", "nlpcl", "run", *line.split(), "--model", tiny, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("*.json")
    assert done.stdout.count(f"record: {path}") == 1
    assert done.stderr.count("epoch 1/1") == 2  # of either task
    assert Record.load(path).measured.processes == 2
