"""Runs that end before their end: what the user is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from nlpcl import experiment
from nlpcl.errors import UsageError
from nlpcl.evaluation import MatrixMetric
from nlpcl.strategies.base import ContinualStrategy
from tests.test_resume import run, spec_of


def failing(error: Exception | type[Exception]) -> Callable[..., None]:
    """What does nothing but raise an error."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce] can't allocate memory"), MemoryError()],
)
def test_out_of_memory_says_the_batch_and_what_helps(
    error: Exception,
    models: dict[str, str],
    three_tasks: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ContinualStrategy, "backward", failing(error))
    with pytest.raises(
        UsageError, match=r"--train-batch-size 8: try a smaller one, --gradient-checkpointing or --precision bf16"
    ):
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)


def test_a_way_out_that_is_taken_or_barred_is_not_offered(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContinualStrategy, "backward", failing(MemoryError))
    spec, scenario = spec_of("ncl", models)
    barred, _ = spec_of("ncl", models, backbone="bert_frozen")
    for which, taken in ((spec, True), (barred, False)):
        with pytest.raises(UsageError, match=r"try a smaller one or --precision bf16\."):
            experiment.run(which, data_root=three_tasks[scenario], out=None, gradient_checkpointing=taken)


def test_no_compiler_is_told(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch finds out in the first step."""
    monkeypatch.setattr(ContinualStrategy, "forward", failing(InvalidCxxCompiler))
    spec, scenario = spec_of("ncl", models)
    with pytest.raises(
        UsageError, match=r"cannot compile the encoder here \(InvalidCxxCompiler: .*leave --compile out"
    ):
        experiment.run(spec, data_root=three_tasks[scenario], out=None)


def test_out_of_memory_at_test_and_before_the_training(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        monkeypatch.context() as patch,
        pytest.raises(UsageError, match=r"at test: try an --eval-batch-size below 128"),
    ):
        patch.setattr(MatrixMetric, "after_eval_iteration", failing(MemoryError))
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)
    monkeypatch.setattr(experiment, "build_model", failing(MemoryError))
    with pytest.raises(UsageError, match="out of memory before the training"):
        run(spec_of("ncl", models)[0], three_tasks["til"], tmp_path)


@pytest.mark.parametrize("name", ["ncl", "avalanche/Naive"])
def test_a_training_gone_astray_ends_the_run(
    name: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path
) -> None:
    """Also where the loss of the last step was still finite, as after the only step of NCL here."""
    size = {"train_size": 8, "epochs": 1} if name == "ncl" else {}
    spec, scenario = spec_of(name, models, tasks=1, **size)
    spec = spec.model_copy(update={"learning_rate": 1e30})  # far above what a new spec may have
    with pytest.raises(UsageError, match=r"no longer finite, .* of task task0: try a lower --learning-rate\."):
        run(spec, three_tasks[scenario], tmp_path)
