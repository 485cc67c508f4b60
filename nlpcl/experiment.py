"""`run(spec) -> Record`: the only module that joins benchmark, model and strategy."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from avalanche.benchmarks import CLScenario
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from nlpcl import runtime
from nlpcl.benchmarks.words import Words
from nlpcl.encoders import encoder_fingerprint
from nlpcl.errors import UsageError
from nlpcl.evaluation import MatrixMetric
from nlpcl.models import ContinualModel, build_model, precompute
from nlpcl.models.sizes import model_bytes
from nlpcl.records import Matrices, Measured, Record, Seconds
from nlpcl.registry import backbones, benchmarks, strategies
from nlpcl.spec import RunSpec

Eval = Literal["seen", "full", "final"]


class Progress(Protocol):
    """What `run` tells while it runs; `nlpcl.display.ProgressReporter` shows it."""

    def encoded(self, done: int, examples: int) -> None: ...
    def start(self, tasks: list[str], epochs: list[int]) -> None: ...
    def epoch(self, task: int, epoch: int, loss: float, step: int, steps: int) -> None: ...
    def evaluated(self, row: int, accuracies: list[float | None]) -> None: ...
    def stop(self) -> None: ...


class ProgressPlugin(SupervisedPlugin[Any], supports_distributed=True):  # type: ignore[call-arg]
    """Passes task, epoch, step and loss on, at most a few times a second: reading a loss waits for the device."""

    def __init__(self, progress: Progress, every: float = 0.5) -> None:
        super().__init__()
        self.progress = progress
        self.every = every
        self._last = 0.0

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        clock, steps = strategy.clock, len(strategy.dataloader)
        step = clock.train_epoch_iterations + 1
        now = time.monotonic()
        if step == steps or now - self._last >= self.every:
            self._last = now
            task = strategy.experience.current_experience
            self.progress.epoch(task, clock.train_exp_epochs, float(strategy.loss.detach()), step, steps)


def fit(
    strategy: SupervisedTemplate[Any, Any, Any],
    benchmark: CLScenario[Any],
    *,
    eval: Eval = "seen",
    stream: Literal["test", "valid"] = "test",
    epochs: list[int] | None = None,
    trained: Callable[[int], None] | None = None,
    after: Callable[[int, MatrixMetric], None] | None = None,
) -> MatrixMetric:
    """Train a strategy on a benchmark, the way the strategy is meant to be driven, and test it.

    A continual strategy sees one experience after another; ONE starts afresh for each and is tested on
    that one alone; MTL sees the whole stream at once and is tested at the end.

    :param strategy: one of ours or Avalanche's.
    :param benchmark: with a train and a test stream of T experiences.
    :param eval: test after each experience on those `seen`, on all (`full`, also before the first), or
        only at the end (`final`).
    :param stream: evaluate on the `test` stream or, to choose settings, on `valid`.
    :param epochs: epochs of each experience; None: the strategy's own.
    :param trained: called with the number of tasks trained so far, each time it has grown.
    :param after: called with row and matrices after each evaluation; row -1 is the one before the first task.
    :return: the T x T matrices.
    """
    train, test = benchmark.train_stream, getattr(benchmark, f"{stream}_stream")  # type: ignore[attr-defined]
    n_tasks = len(train)
    matrix = MatrixMetric(n_tasks)
    strategy.evaluator.metrics.append(matrix)
    protocol = _protocol(strategy)

    def train_on(experiences: Any, row: int) -> None:
        strategy.train(experiences, eval_streams=[])
        if trained is not None:
            trained(row + 1)

    def test_on(row: int, columns: list[int]) -> None:
        matrix.row = row
        strategy.eval([test[column] for column in columns])
        if after is not None:
            after(row, matrix)

    if eval == "full" and protocol == "continual":
        strategy.eval(list(test))
        if after is not None:
            after(-1, matrix)
    if protocol == "joint":
        strategy.train_epochs = max(epochs) if epochs else strategy.train_epochs
        train_on(list(train), n_tasks - 1)
        test_on(n_tasks - 1, list(range(n_tasks)))
        return matrix
    for row, experience in enumerate(train):
        strategy.train_epochs = epochs[row] if epochs else strategy.train_epochs
        train_on(experience, row)
        if protocol == "isolated":
            test_on(row, [row])
        elif eval != "final" or row == n_tasks - 1:
            test_on(row, list(range(row + 1 if eval == "seen" else n_tasks)))
    return matrix


def _protocol(strategy: object) -> str:
    for entry in strategies.entries():
        if isinstance(entry.target, type) and type(strategy) is entry.target:
            return entry.protocol
    return "continual"


def build_strategy(spec: RunSpec, model: ContinualModel, device: torch.device, **more: Any) -> Any:
    """The strategy of a complete spec, with AdamW and the spec's training settings."""
    assert spec.learning_rate is not None and spec.weight_decay is not None
    entry = strategies.get(spec.strategy)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, eps=1e-6)
    engine = {}
    if entry.engine:
        engine = {
            "precision": spec.precision,
            "schedule": spec.schedule,
            "warmup": spec.warmup,
            "clip_norm": spec.clip_norm,
        }
    return entry.target(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=spec.train_batch_size,
        device=device,
        evaluator=EvaluationPlugin(),
        **engine,
        **(spec.options or {}),
        **more,
    )


def prepare(
    spec: RunSpec,
    *,
    data_root: str | Path | None = None,
    device: torch.device,
    encoded: Callable[[int, int], None] | None = None,
    **more: Any,
) -> tuple[CLScenario[Any], Any]:
    """Benchmark and strategy of a complete spec, all seeds set.

    :param data_root: folder with the data; None: the package downloads what it needs.
    :param encoded: called with the number of examples that a frozen encoder has seen, and of all.
    :param more: further arguments of the strategy.
    :raises UsageError: the spec cannot be run.
    """
    runtime.seed_everything(spec.seed)
    text = spec.max_length is not None
    backbone = backbones.get(str(spec.backbone))
    tokenizer = Words(spec.model, backbone.words) if backbone.words else spec.model
    benchmark = benchmarks.get(spec.benchmark).target(
        spec.scenario,
        spec.order,
        tasks=spec.tasks,
        train_size=spec.train_size,
        root=data_root,
        **(spec.benchmark_options or {}),
        **({"tokenizer": tokenizer, "max_length": spec.max_length} if text else {}),
    )
    if backbone.frozen and not (spec.options or {}).get("parity"):
        precompute(benchmark, str(spec.model), device=device, progress=encoded)
    padding = {"padding": spec.padding} if text else {}
    model = build_model(benchmark, spec.backbone, spec.model, **padding, **(spec.backbone_options or {}))
    return benchmark, build_strategy(spec, model, device, **more)


def run(
    spec: RunSpec,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = "runs",
    device: str = "auto",
    eval_batch_size: int = 128,
    progress: Progress | None = None,
) -> Record:
    """Run a spec and return its record, also saved as `out/<spec.id>/record.json`.

    Only the spec can change the result; the other arguments say where and how it is computed.

    :param data_root: folder with the data; None: the package downloads what it needs.
    :param out: folder for records; None: nothing is written.
    :param device: `auto`, `cpu`, `cuda`, ...
    :param eval_batch_size: mini-batch size at test.
    :raises UsageError: the spec cannot be run; nothing is left behind.
    """
    spec = spec.filled()
    begun, started = time.monotonic(), datetime.now(timezone.utc)
    where = runtime.choose_device(device)
    plugins = [] if progress is None else [ProgressPlugin(progress)]
    benchmark, strategy = prepare(
        spec,
        data_root=data_root,
        device=where,
        encoded=None if progress is None else progress.encoded,
        eval_mb_size=eval_batch_size,
        plugins=plugins,
    )
    ready = time.monotonic()

    epochs = [spec.epochs_for(name) for name in benchmark.task_names]
    samples = sum(size["train"] * times for size, times in zip(benchmark.sizes, epochs, strict=True))
    seconds = Seconds(setup=round(ready - begun, 3))
    last = ready
    kept: list[dict[str, int]] = []

    def elapsed() -> float:
        nonlocal last
        before, last = last, time.monotonic()
        return round(last - before, 3)

    def trained(tasks: int) -> None:
        seconds.train.append(elapsed())
        kept.append(
            strategy.kept_bytes(tasks) if hasattr(strategy, "kept_bytes") else model_bytes(strategy.model, tasks)
        )

    def after(row: int, matrix: MatrixMetric) -> None:
        seconds.evaluate.append(elapsed())
        if progress is not None and row >= 0:
            progress.evaluated(row, matrix.accuracy[row])

    if progress is not None:
        progress.start(benchmark.task_names, epochs)
    try:
        matrix = fit(strategy, benchmark, eval=spec.eval or "seen", epochs=epochs, trained=trained, after=after)
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"out of memory with --train-batch-size {spec.train_batch_size}: try a smaller one, or --precision bf16."
        ) from error
    finally:
        if progress is not None:
            progress.stop()
    record = Record(
        status="ok",
        spec=spec.model_dump(mode="json", exclude_unset=True),
        data={
            "files": benchmark.files,
            "tasks": benchmark.sizes,
            "encoder": _encoder_facts(spec, benchmark),
        },
        sizes={**_sizes(strategy.model, strategy), "kept_bytes": kept},
        seeds={"train": spec.seed, "data": 0},
        versions=runtime.versions(),
        matrices=Matrices(accuracy=matrix.accuracy, macro_f1=matrix.macro_f1, initial=matrix.initial),
        measured=Measured(
            started=started.isoformat(timespec="seconds"),
            seconds=seconds.model_copy(update={"total": round(time.monotonic() - begun, 3)}),
            samples_per_second=round(samples / max(sum(seconds.train), 1e-3), 2),
            peak_memory_mb=round(runtime.peak_memory_mb(), 1),
            peak_gpu_memory_mb=runtime.peak_gpu_memory_mb(where),
            device=str(where),
            host=runtime.host(),
            git=runtime.git_state(),
        ),
    )
    if out is not None:
        record.save(Path(out) / record.id / "record.json")
    return record


def _encoder_facts(spec: RunSpec, benchmark: CLScenario[Any]) -> dict[str, Any] | None:
    """What stood between text and the trained layers: an encoder's weights, or word vectors; None for images."""
    vectors = getattr(benchmark, "vectors", None)
    if vectors is not None:
        return vectors.source
    return None if spec.model is None else encoder_fingerprint(spec.model)


def _sizes(model: ContinualModel, strategy: Any) -> dict[str, Any]:
    total = sum(p.numel() for p in model.parameters())
    encoder = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    sizes: dict[str, Any] = {"parameters": total, "parameters_frozen_at_end": encoder}
    masks = getattr(strategy, "masks", None)
    if masks is not None:
        sizes["undecided_gates"] = [round(share, 6) for share in masks.undecided]
        sizes["units_used"] = round(float(masks.gates.used.mean()), 6)
    return sizes
