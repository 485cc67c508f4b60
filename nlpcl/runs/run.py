"""`run(spec) -> Record`: the only module that joins benchmark, model and strategy."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from avalanche.benchmarks import CLScenario
from torch import nn

from nlpcl.benchmarks.words import Words
from nlpcl.config.encoders import encoder_facts
from nlpcl.config.resolve import check_epochs, resolve
from nlpcl.config.spec import CompleteSpec, RunSpec
from nlpcl.errors import UsageError
from nlpcl.evaluation import MatrixMetric
from nlpcl.models import ContinualModel, build_model, precompute
from nlpcl.models.sizes import model_bytes, sizes_of
from nlpcl.options import complete_options
from nlpcl.records.record import Matrices, Measured, Record, Seconds
from nlpcl.registry import backbones, benchmarks, check_processes, strategies
from nlpcl.runs.checkpoint import CheckpointFolder, CheckpointManager, interruptible
from nlpcl.runs.failures import Failed, explained
from nlpcl.runs.fit import fit
from nlpcl.runs.identity import check_same, identified
from nlpcl.runs.lock import alone
from nlpcl.runs.progress import Progress, ProgressPlugin, Silent
from nlpcl.runs.state import NotSerializable
from nlpcl.training import distributed, runtime
from nlpcl.training.strategy import silent_evaluator


def build_strategy(spec: CompleteSpec, model: ContinualModel, device: torch.device, **more: Any) -> Any:
    """The strategy of a complete spec, with AdamW and the spec's training settings."""
    entry = strategies.get(spec.strategy)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=spec.learning_rate,
        weight_decay=spec.weight_decay,
        eps=1e-6,
        fused=True if device.type == "cuda" else None,
    )
    return entry.target(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=spec.train_batch_size,
        device=device,
        evaluator=silent_evaluator(),
        **(spec.engine_settings() if entry.engine else {}),
        **complete_options(entry, spec.options),
        **more,
    )


def prepare(
    spec: CompleteSpec,
    *,
    data_root: str | Path | None = None,
    device: torch.device,
    encoded: Callable[[int, int], None] | None = None,
    encode: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[CLScenario[Any], Any]:
    """Benchmark and strategy of a complete spec, all seeds set.

    :param data_root: folder with the data; None: the package downloads what it needs.
    :param encode: arguments of `precompute`: which splits and tasks a frozen encoder sees; None: all.
    :param encoded: called with the number of examples that a frozen encoder has seen, and of all.
    :param more: further arguments of the strategy.
    :raises UsageError: the spec cannot be run.
    """
    runtime.seed_everything(spec.seed)
    text = spec.max_length is not None
    backbone = backbones.get(spec.backbone)
    tokenizer = Words(spec.model, backbone.words) if backbone.words else spec.model
    stream = benchmarks.get(spec.benchmark)
    benchmark = stream.target(
        spec.scenario,
        spec.order,
        tasks=spec.tasks,
        train_size=spec.train_size,
        root=data_root,
        **({"seed": spec.data_seed} if spec.data_seed else {}),
        **complete_options(stream, spec.benchmark_options),
        **({"tokenizer": tokenizer, "max_length": spec.max_length} if text else {}),
    )
    if isinstance(spec.epochs, dict) and spec.tasks is None and stream.published is None:
        check_epochs(spec.epochs, benchmark.task_names)
    if backbone.frozen and not spec.options.get("parity"):
        precompute(benchmark, str(spec.model), device=device, progress=encoded, **(encode or {}))
    padding = {"padding": spec.padding} if text else {}
    options = complete_options(backbone, spec.backbone_options)
    model = build_model(benchmark, spec.backbone, spec.model, **padding, **options)
    return benchmark, build_strategy(spec, model, device, **more)


def run(
    spec: RunSpec,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = "runs",
    device: str = "auto",
    eval_batch_size: int = 128,
    progress: Progress | None = None,
    checkpoint_minutes: float = 10,
    fresh: bool = False,
    compiled: bool = False,
    gradient_checkpointing: bool = False,
    repeated: Record | None = None,
) -> Record:
    """Run a spec and return its record, also saved as `out/<id>/record.json`.

    The id is that of the complete spec with the digests of own data and of a local encoder (`nlpcl.runs.identity`).
    Only the spec can change the result; the other arguments say where and how it is computed. A run that was
    interrupted goes on from its last checkpoint, in `out/<id>/checkpoints`, to the same record. If the run fails (out
    of memory, NaN loss),
    `failed.json` in the same folder says why.

    :param data_root: folder with the data; None: the package downloads what it needs.
    :param out: folder for records and checkpoints; None: nothing is written.
    :param device: `auto`, `cpu`, `cuda`, ...
    :param eval_batch_size: mini-batch size at test.
    :param checkpoint_minutes: within a task a checkpoint is saved every so many minutes; 0: only between tasks.
    :param fresh: start over, whatever checkpoints there are.
    :param compiled: run the encoder as code that torch compiles.
    :param gradient_checkpointing: compute the encoder's activations again in the backward pass, to save memory.
    :param repeated: the record that the run repeats: it must read the same files and the same encoder.
    :raises UsageError: the spec cannot be run, another process is at it, the run failed, or a record or checkpoint of
        the same id was made from other files.
    :raises KeyboardInterrupt: SIGINT or SIGTERM came; what was done is saved.
    """
    more: dict[str, Any] = {"data_root": data_root, "eval_mb_size": eval_batch_size}
    with distributed.process_group(device) as there:
        with distributed.raise_on_all_ranks():
            spec = identified(resolve(spec), data_root)
        place = None if out is None else Path(out) / spec.id
        with alone(place), runtime.matrix_products(spec.precision == "tf32"):
            check_processes(strategies.get(spec.strategy), distributed.world_size())
            job = _Job(spec, there, progress, compiled, gradient_checkpointing)
            if repeated is not None:
                job.made_before["the record to repeat"] = repeated.data
            if place is None:
                return job.run(None, **more)
            if not fresh and (before := _record_of(place / "record.json")) is not None:
                job.made_before[str(place / "record.json")] = before.data
            folder = CheckpointFolder(place / "checkpoints", spec.id)
            if fresh:
                folder.clear()
            try:
                record = job.run(folder, checkpoint_minutes, **more)
            except NotSerializable as error:
                job.tell(f"the checkpoint does not fit ({error}): starting over")
                folder.clear()
                record = job.run(folder, checkpoint_minutes, **more)
            except Failed as error:
                if distributed.is_rank_zero():
                    error.record.save(place / "failed.json")
                raise
            if distributed.is_rank_zero():
                record.save(place / "record.json")
                (place / "failed.json").unlink(missing_ok=True)
            folder.clear()
            return record


def _record_of(path: Path) -> Record | None:
    """The record that lies there; None if there is none, or it cannot be read as one."""
    try:
        return Record.load(path)
    except UsageError:
        return None


class _Job:
    """One execution of a complete spec, and what is measured of it."""

    def __init__(
        self, spec: CompleteSpec, device: torch.device, progress: Progress | None, compiled: bool, recompute: bool
    ) -> None:
        self.spec = spec
        self.device = device
        # Never none: a checkpoint of a run that shows something must fit one that does not.
        self.progress = progress or Silent()
        self.compiled = compiled
        self.recompute = recompute
        self.made_before: dict[str, dict[str, Any]] = {}
        """By place the `data` of records that this one repeats or replaces, which must be the same."""

    def tell(self, sentence: str) -> None:
        self.progress.say(sentence)

    def run(self, folder: CheckpointFolder | None, minutes: float = 0, **more: Any) -> Record:
        spec, progress = self.spec, self.progress
        self.begun = self.last = time.monotonic()
        self.started = datetime.now(timezone.utc)
        self.seconds, self.resumed, self.spent = Seconds(), 0, 0.0
        self.kept: list[dict[str, int]] = []
        try:
            with interruptible(None), distributed.raise_on_all_ranks(), distributed.local_rank_zero_first():
                self.benchmark, self.strategy = prepare(
                    spec,
                    device=self.device,
                    encoded=progress.encoded,
                    plugins=[ProgressPlugin(progress)],
                    **more,
                )
                identified(spec, more["data_root"])  # or the files changed while they were read
                self.data = self._data()
                for place, data in self.made_before.items():
                    check_same(data, self.data, place)
        except (RuntimeError, MemoryError) as error:
            if (told := explained(error, None, spec)) is None:
                raise
            raise UsageError(told) from error
        if self.recompute:
            self.strategy.model.backbone.recompute_activations()
        if self.compiled:
            self.strategy.model.backbone.compile_encoder()
        self.seconds.setup = self._elapsed()
        self.epochs = epochs = [spec.epochs_for(name) for name in self.benchmark.task_names]
        progress.start(self.benchmark.task_names, epochs)
        self.matrix = MatrixMetric(len(epochs))
        keeper, start = None, 0
        if folder is not None:
            keeper = CheckpointManager(folder, self.strategy, self.benchmark, minutes, self._facts, self.tell)
            start = self._resume(keeper)
        try:
            with interruptible(keeper):
                fit(
                    self.strategy,
                    self.benchmark,
                    eval=spec.eval,
                    epochs=epochs,
                    trained=self._trained,
                    after=self._after,
                    matrix=self.matrix,
                    start=start,
                    keeper=keeper,
                )
        except UsageError as error:
            kept = "" if keeper is None or keeper.latest is None else f" The last good checkpoint is {keeper.latest}."
            raise Failed(f"{error}{kept}", self._record("failed", str(error))) from error
        except (RuntimeError, MemoryError) as error:
            if (told := explained(error, self.strategy, spec)) is None:
                raise
            failed = Failed(told, self._record("failed", told))
            failed.of_one_process = True
            raise failed from error
        finally:
            progress.stop()
        return self._record("ok")

    def _trained(self, tasks: int) -> None:
        self.seconds.train.append(self._elapsed())
        kept = getattr(self.strategy, "kept_bytes", partial(model_bytes, self.strategy.model))
        self.kept.append(kept(tasks))

    def _after(self, row: int, matrix: MatrixMetric) -> None:
        self.seconds.evaluate.append(self._elapsed())
        if row >= 0:
            self.progress.evaluated(row, matrix.accuracy[row])

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint must know of the run besides the strategy."""
        spent = round(time.monotonic() - self.begun + self.spent, 3)
        seconds = self.seconds.model_dump()
        return {
            "matrices": self.matrix.state(),
            "kept": self.kept,
            "seconds": seconds,
            "spent": spent,
            "resumed": self.resumed,
            "computed": self._computed(),
            "data": self.data,
        }

    def _data(self) -> dict[str, Any]:
        """Return the data files, tasks and encoder that the run read."""
        encoder = encoder_facts(self.spec.model, getattr(self.benchmark, "vectors", None))
        return {"files": self.benchmark.files, "tasks": self.benchmark.sizes, "encoder": encoder}

    def _computed(self) -> dict[str, str]:
        """What may change the last bits of a result."""
        here = {"device": str(self.device), "processes": str(distributed.world_size()), "compiled": str(self.compiled)}
        return {**runtime.versions(), **here}

    def _resume(self, keeper: CheckpointManager) -> int:
        """Take up the newest checkpoint, if there is one; the number of tasks that are done."""
        rows, facts = keeper.resume()
        if facts:
            check_same(facts["data"], self.data, f"checkpoint {keeper.latest}")
            self.matrix.load(facts["matrices"])
            self.kept, self.seconds = facts["kept"], Seconds(**facts["seconds"])
            self.spent, self.resumed = facts["spent"], facts["resumed"] + 1
            then, now = facts.get("computed", {}), self._computed()
            if other := [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]:
                self.tell(f"begun with {'; '.join(other)}: the record may differ from one made in one go")
        return rows

    def _record(self, status: Literal["ok", "failed"], error: str | None = None) -> Record:
        spec, benchmark, strategy, seconds = self.spec, self.benchmark, self.strategy, self.seconds
        seconds.total = round(time.monotonic() - self.begun + self.spent, 3)
        done = sum(size["train"] * n for size, n, _ in zip(benchmark.sizes, self.epochs, seconds.train, strict=False))
        return Record(
            status=status,
            error=error and error[:2000],
            spec=spec.model_dump(mode="json", exclude_unset=True),
            data=self.data,
            sizes={**sizes_of(strategy), "kept_bytes": self.kept},
            seeds={"train": spec.seed, "data": spec.data_seed},
            versions=runtime.versions(),
            matrices=Matrices(**self.matrix.state()),
            measured=Measured(
                started=self.started.isoformat(timespec="seconds"),
                seconds=seconds,
                samples_per_second=round(done / max(sum(seconds.train), 1e-3), 2),
                peak_memory_mb=round(runtime.peak_memory_mb(), 1),
                peak_gpu_memory_mb=runtime.peak_gpu_memory_mb(self.device),
                device=str(self.device),
                processes=distributed.world_size(),
                resumed=self.resumed,
                compiled=self.compiled,
                host=runtime.host(),
                git=runtime.git_state(),
            ),
        )

    def _elapsed(self) -> float:
        before, self.last = self.last, time.monotonic()
        return round(self.last - before, 3)
