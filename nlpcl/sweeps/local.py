"""The runs of a sweep as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Sequence

from nlpcl.errors import UsageError
from nlpcl.runs.lock import BUSY, Lock, acquire, is_locked, release
from nlpcl.sweeps.cells import Cell, Execution, Outcome, SweepProgress, finished, outcome

_POLL = 0.2


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(device: str) -> list[str]:
    """Return the GPUs for runs on `device`, as CUDA_VISIBLE_DEVICES names them; none if it names another device."""
    import torch

    if device not in ("auto", "cuda"):
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[: torch.cuda.device_count()] or [str(i) for i in range(torch.cuda.device_count())]


def workers(jobs: int | None, device: str) -> int:
    """Return how many runs this machine does at a time.

    :param jobs: how many are asked for, at most one a core; None means one for each GPU, or one.
    :raises UsageError: more jobs than cores.
    """
    jobs = jobs or len(visible_gpus(device)) or 1
    if jobs > cores():
        raise UsageError(f"--jobs {jobs} is more than the {cores()} processor core(s) here.")
    return jobs


def run_local(cells: Sequence[Cell], jobs: int | None, execution: Execution, progress: SweepProgress) -> None:
    """Run cells, each as a process of its own, so that what kills one leaves the others alone.

    :param jobs: how many at a time, as `workers` takes it. More than GPUs share them.
    :raises UsageError: more jobs than cores.
    :raises KeyboardInterrupt: as it came; the runs have saved a checkpoint and ended.
    """
    gpus, jobs = visible_gpus(execution.device), workers(jobs, execution.device)
    waiting, free = deque(cells), list(range(jobs))
    busy: dict[int, _Worker] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        while waiting or busy:
            while waiting and free:
                cell = waiting.popleft()
                lock = _claim(cell, execution)
                if isinstance(lock, Outcome):
                    progress.ended(lock)
                    continue
                slot = free.pop(0)
                gpu = gpus[slot % len(gpus)] if gpus else None
                busy[slot] = _Worker(cell, execution, lock, gpu, cores() // jobs)
            progress.running([worker.cell for worker in busy.values()])
            time.sleep(_POLL)
            for slot in [slot for slot, worker in busy.items() if worker.process.poll() is not None]:
                progress.ended(busy.pop(slot).outcome())
                free.append(slot)
    finally:
        if busy:
            progress.stopping(len(busy))
            _stop(busy.values())
        signal.signal(signal.SIGTERM, before)


def _claim(cell: Cell, execution: Execution) -> Lock | Outcome:
    """Lock a run for this sweep, or return what has become of it elsewhere since it was planned.

    The run's process locks its folder only once it has started: until then this lock keeps other sweeps away.
    """
    log = cell.log(execution)
    if is_locked(log.with_name(".lock")):
        return Outcome(cell, BUSY)
    try:
        lock = acquire(log.with_name(".sweep"), 0)
    except UsageError as error:
        return Outcome(cell, str(error))
    if finished(log.with_name("record.json")) is None:
        return lock
    release(lock)
    return Outcome(cell, None)


class _Worker:
    """A run as a process. It is a session of its own, or Ctrl-C would reach it beside our own signal.

    :param lock: of the run, which ends with it.
    """

    def __init__(self, cell: Cell, execution: Execution, lock: Lock, gpu: str | None, threads: int) -> None:
        self.cell = cell
        self.execution = execution
        self.lock = lock
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with cell.log(execution).open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nlpcl", *cell.argv(execution)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def outcome(self) -> Outcome:
        """Return how the run ended, once its process has."""
        release(self.lock)
        return outcome(self.cell, self.execution, self.process.returncode)


def _stop(workers: Collection[_Worker]) -> None:
    """Let runs save a checkpoint and end; a second Ctrl-C ends them at once."""
    for worker in workers:
        worker.process.terminate()
    try:
        for worker in workers:
            worker.process.wait()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise
    finally:
        for worker in workers:
            release(worker.lock)
