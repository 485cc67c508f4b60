"""Runs that end before their end: what the user is told."""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from nlpcl.cli import main
from nlpcl.evaluation import MatrixMetric
from nlpcl.records.record import Record
from nlpcl.runs import run as experiment
from nlpcl.training.strategy import ContinualStrategy
from tests.helpers.messages import mentions, refused
from tests.helpers.runs import run, spec_of


def failing(error: Exception | type[Exception]) -> Callable[..., None]:
    """What does nothing but raise an error."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_the_batch_and_what_helps(
    error: Exception,
    models: dict[str, str],
    three_tasks: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ContinualStrategy, "backward", failing(error))
    with refused("memory --train-batch-size 8 --max-length 32 --gradient-checkpointing --precision bf16"):
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)


def test_a_way_out_that_is_taken_or_barred_is_not_offered(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContinualStrategy, "backward", failing(MemoryError))
    spec, scenario = spec_of("ncl", models)
    barred, _ = spec_of("ncl", models, backbone="bert_frozen")
    for which, taken in ((spec, True), (barred, False)):
        with refused("--train-batch-size --precision bf16") as caught:
            experiment.run(which, data_root=three_tasks[scenario], out=None, gradient_checkpointing=taken)
        assert not mentions(str(caught.value), "--gradient-checkpointing")


def test_no_compiler_is_told(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch finds out in the first step."""
    monkeypatch.setattr(ContinualStrategy, "forward", failing(InvalidCxxCompiler))
    spec, scenario = spec_of("ncl", models)
    with refused("InvalidCxxCompiler --compile"):
        experiment.run(spec, data_root=three_tasks[scenario], out=None)


def test_out_of_memory_at_test_and_before_the_training(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        monkeypatch.context() as patch,
        refused("--eval-batch-size 128 --max-length 32"),
    ):
        patch.setattr(MatrixMetric, "after_eval_iteration", failing(MemoryError))
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)
    monkeypatch.setattr(experiment, "build_model", failing(MemoryError))
    with refused("memory before --max-length 32"):
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)


def test_other_errors_pass(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "build_model", failing(RuntimeError("could not create a primitive descriptor")))
    with pytest.raises(RuntimeError, match="descriptor"):
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)


def test_out_of_memory_outside_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Record, "load", failing(MemoryError))
    assert main(["run", "--from", str(tmp_path / "record.json")]) == 2
    assert mentions(capsys.readouterr().err, "memory --max-length")


@pytest.mark.parametrize("name", ["ncl", "avalanche/Naive"])
def test_a_training_gone_astray_ends_the_run(
    name: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path
) -> None:
    """Also where the loss of the last step was still finite, as after the only step of NCL here."""
    size = {"train_size": 8, "epochs": 1} if name == "ncl" else {}
    spec, scenario = spec_of(name, models, tasks=1, **size)
    spec = spec.model_copy(update={"learning_rate": 1e30})  # far above what a new spec may have
    with refused("finite task0 --learning-rate"):
        run(spec, three_tasks[scenario], tmp_path)


def test_windows_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert main(["run", "--strategy", "ncl", "--out", str(tmp_path / "runs")]) == 2
    assert mentions(capsys.readouterr().err, "Linux macOS Windows WSL") and not (tmp_path / "runs").exists()
