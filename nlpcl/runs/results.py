"""What a run has measured so far, of which its record is made."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Annotated, Any

import torch
from avalanche.training.templates import SupervisedTemplate
from pydantic import BaseModel, ConfigDict, Field

from nlpcl.benchmarks import Benchmark
from nlpcl.config.encoders import encoder_facts
from nlpcl.config.spec import CompleteSpec
from nlpcl.evaluation import MatrixMetric
from nlpcl.models.sizes import model_bytes, sizes_of
from nlpcl.records.record import Matrices, Measured, Record, Seconds, Span
from nlpcl.runs import environment
from nlpcl.runs.state import NotSerializable
from nlpcl.training import distributed


class ResultsState(BaseModel):
    """What a checkpoint keeps of the results of a run."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    matrices: Matrices
    kept_bytes: list[dict[str, Annotated[int, Field(ge=0)]]]
    seconds: Seconds
    spent: Span
    resumed: Annotated[int, Field(ge=0)]
    environment: dict[str, str]
    data: dict[str, Any]

    @property
    def tasks(self) -> int:
        """The number of tasks that are done; -1 if the results are of different numbers of tasks."""
        tasks = len(self.kept_bytes)
        return tasks if len(self.seconds.train) == tasks else -1


class Results:
    """What a run has measured so far. A checkpoint holds its `state`, so that a resumed run adds to it.

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
        encoder = encoder_facts(spec.model, benchmark.vectors)
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

    def environment(self) -> dict[str, str]:
        """Return what may change the last bits of a result."""
        computed = {"device": str(self.device), "processes": str(distributed.world_size())}
        return {**environment.versions(), **computed, "compiled": str(self.compiled)}

    def state(self) -> ResultsState:
        """Return what a checkpoint keeps of it."""
        return ResultsState(
            matrices=Matrices(**self.matrix.state()),
            kept_bytes=self.kept_bytes,
            seconds=self.seconds,
            spent=self._spent(),
            resumed=self.resumed,
            environment=self.environment(),
            data=self.data,
        )

    def load(self, state: ResultsState) -> None:
        """Go on from the `state` of a checkpoint.

        :raises NotSerializable: it is of another number of tasks.
        """
        if len(state.matrices.accuracy) != len(self.epochs):
            raise NotSerializable(f"its matrices are of {len(state.matrices.accuracy)} tasks")
        self.matrix.load(state.matrices.model_dump())
        self.kept_bytes, self.seconds = state.kept_bytes, state.seconds
        self._earlier, self.resumed = state.spent, state.resumed + 1

    def record(self, error: str | None = None) -> Record:
        """Return the record of a run that is done or, with an `error`, of one that failed."""
        seconds = self.seconds.model_copy(update={"total": self._spent()})
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

    def _spent(self) -> float:
        return round(time.monotonic() - self._begun + self._earlier, 3)

    def _elapsed(self) -> float:
        before, self._last = self._last, time.monotonic()
        return round(self._last - before, 3)
