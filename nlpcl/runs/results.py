"""What a run has measured so far, of which its record is made."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate

from nlpcl.benchmarks import Benchmark
from nlpcl.config.encoders import encoder_fingerprint
from nlpcl.config.spec import CompleteSpec
from nlpcl.evaluation import MatrixMetric
from nlpcl.models.sizes import model_bytes, sizes_of
from nlpcl.records.record import Matrices, Measured, Record, Seconds
from nlpcl.runs import environment
from nlpcl.runs.state import NotSerializable
from nlpcl.training import distributed

UNFINISHED = "unfinished"
"""The error in the record of a run that goes on."""


class Results:
    """What a run has measured so far. A checkpoint holds its `record`, so that a resumed run adds to it.

    :param spec: a complete spec.
    :param benchmark: what it trains on.
    :param strategy: what it trains.
    :param device: where.
    :param compiled: whether torch compiled the encoder.
    :param begun: `time.monotonic()` when the run began to set these up.
    """

    def __init__(
        self,
        spec: CompleteSpec,
        benchmark: Benchmark,
        strategy: SupervisedTemplate[Any, Any, Any],
        *,
        device: torch.device,
        compiled: bool,
        begun: float,
    ) -> None:
        self.spec = spec
        self.strategy = strategy
        self.device = device
        self.compiled = compiled
        encoder: dict[str, Any] | None = None  # what stands between text and the trained layers
        if benchmark.vectors is not None:
            encoder = benchmark.vectors.source
        elif spec.model is not None:
            encoder = encoder_fingerprint(spec.model)
        self.data: dict[str, Any] = {"files": benchmark.files, "tasks": benchmark.sizes, "encoder": encoder}
        self.epochs = [spec.epochs_for(name) for name in benchmark.task_names]
        self.matrix = MatrixMetric(len(self.epochs))
        self.kept_bytes: list[dict[str, int]] = []
        self.resumed = 0
        self._begun = self._last = begun
        self._earlier = 0.0  # seconds, before the run was resumed
        self.seconds = Seconds(setup=self._elapsed())

    def on_task_end(self, tasks: int) -> None:
        """Note the time and the bytes to keep; `tasks` are trained."""
        self.seconds.train.append(self._elapsed())
        kept_bytes = getattr(self.strategy, "kept_bytes", partial(model_bytes, self.strategy.model))
        self.kept_bytes.append(kept_bytes(tasks))

    def on_evaluation_end(self) -> None:
        """Note the time."""
        self.seconds.evaluate.append(self._elapsed())

    def load(self, record: Record) -> list[str]:
        """Go on from the record so far of an earlier process; return in words what may change the last bits.

        :raises NotSerializable: it is of another number of tasks.
        """
        measured = record.measured
        if len(record.matrices.accuracy) != len(self.epochs):
            raise NotSerializable(f"its matrices are of {len(record.matrices.accuracy)} tasks")
        then, now = (
            {**r.versions, **{name: getattr(r.measured, name) for name in ("device", "processes", "compiled")}}
            for r in (record, self.record(UNFINISHED))
        )
        self.matrix.load(record.matrices.model_dump())
        self.kept_bytes, self.seconds = record.sizes["kept_bytes"], measured.seconds
        self._earlier, self.resumed = measured.seconds.total or 0.0, measured.resumed + 1
        return [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]

    def record(self, error: str | None = None) -> Record:
        """Return the record of a run that is done or, with an `error`, of one that failed.

        With `UNFINISHED`, a checkpoint keeps it.
        """
        total = round(time.monotonic() - self._begun + self._earlier, 3)
        seconds = self.seconds.model_copy(update={"total": total})
        tasks = zip(self.data["tasks"], self.epochs, seconds.train, strict=False)
        examples = sum(size["train"] * epochs for size, epochs, _ in tasks)
        started = datetime.now(timezone.utc) - timedelta(seconds=time.monotonic() - self._begun)
        return Record(
            status="failed" if error else "ok",
            error=error and error[:2000],
            spec=self.spec.model_dump(mode="json", exclude_unset=True),
            data=self.data,
            sizes={**sizes_of(self.strategy), "kept_bytes": self.kept_bytes},
            seeds={"train": self.spec.seed, "data": self.spec.data_seed},
            versions=environment.versions(),
            matrices=Matrices(**self.matrix.state()),
            measured=Measured(
                started=started.isoformat(timespec="seconds"),
                seconds=seconds,
                samples_per_second=round(examples / max(sum(seconds.train), 1e-3), 2),
                peak_memory_mb=environment.peak_memory_mb(),
                peak_gpu_memory_mb=environment.peak_gpu_memory_mb(self.device),
                device=str(self.device),
                processes=distributed.world_size(),
                resumed=self.resumed,
                compiled=self.compiled,
                host=environment.host(),
                git=environment.git_state(),
            ),
        )

    def _elapsed(self) -> float:
        before, self._last = self._last, time.monotonic()
        return round(self._last - before, 3)
