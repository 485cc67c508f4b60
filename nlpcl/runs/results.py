"""What a run has measured so far, on which machine and with which software: of this its record is made."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate

from nlpcl.benchmarks import Benchmark
from nlpcl.config.encoders import encoder_fingerprint
from nlpcl.config.spec import CompleteSpec
from nlpcl.evaluation import MatrixMetric
from nlpcl.models.sizes import model_bytes, sizes_of
from nlpcl.records.record import PACKAGES, Matrices, Measured, Record, Seconds
from nlpcl.runs.state import NotSerializable
from nlpcl.training import distributed
from nlpcl.training.strategy import protocol_of

UNFINISHED = "unfinished"
"""The error in the record of a run that goes on."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result, and the number of threads."""
    installed = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    installed |= dict.fromkeys(PACKAGES, "not installed")
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def peak_gpu_memory_mb(device: torch.device) -> float | None:
    """Return the largest memory allocated on a GPU so far, in MiB; None on another device."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else None


@functools.cache  # each checkpoint asks; what runs is what was imported
def git_state() -> dict[str, str | bool] | None:
    """Return commit and dirty flag of the source tree the package runs from, or None if it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())}


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    import resource  # which Windows lacks, where `run` refuses to start

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # macOS counts bytes


def host() -> dict[str, str | int | None]:
    """Describe the machine in words that name no person or path."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    cpu = platform.processor() or None
    with suppress(OSError):  # Linux alone tells the model in words
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    machine = {"system": platform.system(), "machine": platform.machine(), "cpu": cpu, "gpu": gpu}
    return {**machine, "cores": os.cpu_count()}


class Results:
    """What a run has measured so far. A checkpoint holds its `record`, so that a resumed run adds to it.

    :param spec: a complete spec.
    :param benchmark: what it trains on.
    :param strategy: what it trains.
    :param compiled: whether torch compiled the encoder.
    :param begun: `time.monotonic()` when the run began to set these up.
    """

    def __init__(
        self,
        spec: CompleteSpec,
        benchmark: Benchmark,
        strategy: SupervisedTemplate[Any, Any, Any],
        *,
        compiled: bool,
        begun: float,
    ) -> None:
        self.spec = spec
        self.strategy = strategy
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
        kept_bytes = getattr(self.strategy, "kept_bytes", functools.partial(model_bytes, self.strategy.model))
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
        trained = self.data["tasks"][: len(seconds.train)]
        epochs = self.epochs
        if protocol_of(self.strategy) == "joint" and seconds.train:  # all tasks in one training
            trained, epochs = self.data["tasks"], [max(self.epochs)] * len(self.epochs)
        examples = sum(size["train"] * n for size, n in zip(trained, epochs, strict=False))
        started = datetime.now(timezone.utc) - timedelta(seconds=time.monotonic() - self._begun)
        return Record(
            status="failed" if error else "ok",
            error=error and error[:2000],
            spec=self.spec.model_dump(mode="json", exclude_unset=True),
            data=self.data,
            sizes={**sizes_of(self.strategy), "kept_bytes": self.kept_bytes},
            seeds={"train": self.spec.seed, "data": self.spec.data_seed},
            versions=versions(),
            matrices=Matrices(**self.matrix.state()),
            measured=Measured(
                started=started.isoformat(timespec="seconds"),
                seconds=seconds,
                samples_per_second=round(examples / max(sum(seconds.train), 1e-3), 2),
                peak_memory_mb=peak_memory_mb(),
                peak_gpu_memory_mb=peak_gpu_memory_mb(self.strategy.device),
                device=str(self.strategy.device),
                processes=distributed.world_size(),
                resumed=self.resumed,
                compiled=self.compiled,
                host=host(),
                git=git_state(),
            ),
        )

    def _elapsed(self) -> float:
        before, self._last = self._last, time.monotonic()
        return round(self._last - before, 3)
