"""Many runs: what is to be done, how long it may take, and its execution by processes of this machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from nlpcl.config.arguments import Request
from nlpcl.config.encoders import encoder_fingerprint
from nlpcl.config.presets import PresetFile
from nlpcl.config.spec import FIELDS, CompleteSpec
from nlpcl.errors import NOT_BOTH, Impossible, UsageError, printable
from nlpcl.records.record import Record
from nlpcl.runs.identity import check_same, identified
from nlpcl.runs.lock import BUSY, locked, taken

POLL = 0.2
LOG = "log.txt"


@dataclass(frozen=True)
class Execution:
    """Where and how runs are computed, which changes no result: arguments of `nlpcl run`."""

    out: Path
    data_root: str | None = None
    device: str = "auto"
    eval_batch_size: int = 128
    checkpoint_minutes: float = 10
    compile: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.compile and self.gradient_checkpointing:
            raise UsageError(NOT_BOTH)

    def argv(self) -> list[str]:
        """As options; of what is left at its default, `out` alone."""
        chosen = {name: value for name, value in vars(self).items() if value != getattr(Execution, name, None)}
        flags = {f"--{name.replace('_', '-')}": value for name, value in chosen.items()}
        return [part for flag, value in flags.items() for part in ([flag] if value is True else [flag, str(value)])]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; `label` says in what it differs from the others."""

    request: Request
    id: str
    spec: CompleteSpec
    label: str

    def argv(self, execution: Execution) -> list[str]:
        """The arguments of `nlpcl` that run it."""
        return ["run", *self.request.argv(), *execution.argv()]

    def line(self, execution: Execution) -> str:
        """The command in one line of a shell.

        :raises UsageError: a value in it holds a line break.
        """
        found = shlex.join(["nlpcl", *self.argv(execution)])
        if "\n" in found:
            raise UsageError(f"{printable(found)} holds a line break, so it is no line of a job array.")
        return found

    def log(self, execution: Execution) -> Path:
        """What the run says goes to this file."""
        return execution.out / self.id / LOG


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `error` is None where its record is there."""

    cell: Cell
    error: str | None


class Watch(Protocol):
    """Is told how a sweep goes; `nlpcl.cli.display.SweepReporter` shows it."""

    def running(self, cells: Sequence[Cell]) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...
    def stopping(self, runs: int) -> None: ...


@dataclass(frozen=True)
class Plan:
    """A sweep before it runs.

    :param cells: its runs, each once.
    :param done: ids of those that have a record.
    :param left_out: why the impossible ones are not among them, a sentence each.
    :param seconds: by id how long a run may take; None where no record tells.
    """

    cells: list[Cell]
    done: set[str]
    left_out: list[str]
    seconds: dict[str, float | None]

    @property
    def to_run(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.id not in self.done]


def plan(
    requests: Iterable[Request],
    out: Path,
    presets: Sequence[Path] = (),
    *,
    data_root: str | None = None,
    skip_impossible: bool = False,
) -> Plan:
    """Return what there is to be done.

    :param requests: the runs; those of one spec are one.
    :param out: folder of records; what has one with status `ok` is done.
    :param presets: files of settings; each goes to the runs that it fits.
    :param data_root: folder with the data: runs on other data are other runs.
    :param skip_impossible: leave out combinations that cannot run.
    :raises UsageError: a run cannot be asked for so, a combination cannot run, a preset fits no run, or a record was
        made with another encoder of the same name.
    """
    found: dict[str, tuple[Request, CompleteSpec]] = {}
    refused: list[str] = []
    settings = [(path, PresetFile.load(path)) for path in presets]
    unused = set(presets)
    total = 0
    for request in requests:
        total += 1
        try:
            spec = request.spec()
        except Impossible as error:
            refused.append(f"{' '.join(request.argv())}: {error}")
            continue
        fitting = tuple(path for path, preset in settings if preset.misfit(spec) is None)
        if fitting:
            unused -= set(fitting)
            request = replace(request, presets=fitting)
            spec = request.spec()
        spec = identified(spec, data_root)
        found.setdefault(spec.id, (request, spec))
    if refused and (not skip_impossible or not found):
        hint = "" if skip_impossible else " --skip-impossible leaves such runs out."
        raise UsageError(f"{len(refused)} of {total} runs cannot be, the first: {refused[0]}{hint}")
    if unused:
        raise UsageError(f"--preset {min(unused)} fits no run of this sweep.")
    cells = _labelled(found)
    records = [record for path in sorted(out.glob("*/record.json")) if (record := finished(path)) is not None]
    done = {record.id: record for record in records if record.id in found}
    for id, record in done.items():
        model = found[id][1].model
        if model is not None and record.data.get("encoder"):
            check_same(record.data, {"encoder": encoder_fingerprint(model)}, str(out / id / "record.json"))
    return Plan(cells, set(done), refused, estimates(cells, records))


def _labelled(found: Mapping[str, tuple[Request, CompleteSpec]]) -> list[Cell]:
    told = {id: dict([*request.fields.items(), *_pairs(request)]) for id, (request, _) in found.items()}
    values: dict[str, set[str | None]] = defaultdict(set)
    names = dict.fromkeys(name for texts in told.values() for name in texts)
    for name in names:
        values[name] = {texts.get(name) for texts in told.values()}
    return [
        Cell(request, id, spec, ", ".join(f"{n} {text}" for n, text in told[id].items() if len(values[n]) > 1) or id)
        for id, (request, spec) in found.items()
    ]


def _pairs(request: Request) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in request.assign]
    return [(name, text) for name, _, text in pairs]


def finished(path: Path) -> Record | None:
    """The record of a run that is done, or None: there is none, it is damaged, of a failed run or misplaced."""
    try:
        record = Record.load(path)
    except UsageError:
        return None
    return record if record.status == "ok" and record.id == path.parent.name else None


def estimates(cells: Sequence[Cell], records: Iterable[Record]) -> dict[str, float | None]:
    """Return by id the seconds that each run may take: the mean of the nearest records that do the same work.

    Runs of the same work agree in all fields that matter for cost; the nearest differ in the fewest other fields.
    """
    by_work: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.measured.seconds.total is not None:
            by_work[_work(record.spec)].append(record)
    found: dict[str, float | None] = {}
    for cell in cells:
        content = cell.spec.model_dump(mode="json", exclude_unset=True)
        distances: dict[int, list[float]] = defaultdict(list)
        for record in by_work[_work(content)]:
            assert record.measured.seconds.total is not None
            distances[_distance(content, record.spec)].append(record.measured.seconds.total)
        found[cell.id] = statistics.fmean(distances[min(distances)]) if distances else None
    return found


def _work(content: Mapping[str, Any]) -> str:
    return json.dumps([content.get(name) for name, field in FIELDS.items() if field.cost], sort_keys=True)


def _distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """Number of fields that differ; order and seed do not count."""
    paired_by = {name for name, field in FIELDS.items() if field.compared == "block"}
    return sum(a.get(name) != b.get(name) for name in {*a, *b} - paired_by)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(device: str) -> list[str]:
    """The GPUs that may be handed to runs on `device`, as in CUDA_VISIBLE_DEVICES; none where it names another."""
    import torch

    if device not in ("auto", "cuda"):
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[: torch.cuda.device_count()] or [str(i) for i in range(torch.cuda.device_count())]


def workers(jobs: int | None, device: str) -> int:
    """How many runs this machine does at a time.

    :param jobs: how many are asked for, at most one a core; None: one for each GPU, or one.
    :raises UsageError: more jobs than cores.
    """
    found = jobs or len(visible_gpus(device)) or 1
    if found > cores():
        raise UsageError(f"--jobs {found} is more than the {cores()} processor core(s) here.")
    return found


def run_local(cells: Sequence[Cell], jobs: int | None, execution: Execution, watch: Watch) -> None:
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
                log = _entered(cell, execution)
                if isinstance(log, Outcome):
                    watch.ended(log)
                    continue
                slot = free.pop(0)
                gpu = gpus[slot % len(gpus)] if gpus else None
                busy[slot] = _Worker(cell, execution, log, gpu, cores() // jobs)
            watch.running([worker.cell for worker in busy.values()])
            time.sleep(POLL)
            for slot in [slot for slot, worker in busy.items() if worker.process.poll() is not None]:
                watch.ended(busy.pop(slot).outcome())
                free.append(slot)
    finally:
        if busy:
            watch.stopping(len(busy))
            _stop([worker.process for worker in busy.values()])
        signal.signal(signal.SIGTERM, before)


def _entered(cell: Cell, execution: Execution) -> BinaryIO | Outcome:
    """A run's log, empty, or what has become of the run elsewhere since it was planned.

    The log is locked, and so stays for the process that inherits it: until that is in its folder, another sweep would
    not know of it.
    """
    log = cell.log(execution)
    if taken(log.parent):
        return Outcome(cell, BUSY)
    stream = log.open("ab")
    if locked(stream.fileno()):
        if finished(log.with_name("record.json")) is None:
            stream.truncate(0)
            return stream
        stream.close()
        return Outcome(cell, None)
    stream.close()
    return Outcome(cell, BUSY)


class _Worker:
    """A run as a process. In a session of its own, since Ctrl-C would reach it beside our own signal."""

    def __init__(self, cell: Cell, execution: Execution, log: BinaryIO, gpu: str | None, threads: int) -> None:
        self.cell = cell
        self.execution = execution
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with log as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nlpcl", *cell.argv(execution)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def outcome(self) -> Outcome:
        return outcome(self.cell, self.execution, self.process.returncode)


def outcome(cell: Cell, execution: Execution, code: int) -> Outcome:
    """What became of a run whose process ended with an exit code, or with minus the number of a signal."""
    if finished(execution.out / cell.id / "record.json") is not None:
        return Outcome(cell, None)
    if code < 0:
        why = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return Outcome(cell, f"killed by {signal.Signals(-code).name}{why}")
    said = last_line(cell.log(execution)).removeprefix("nlpcl: error: ")
    if code == 0 and said.startswith("record: "):  # of another id
        said = "the data or the encoder changed since the sweep was planned: start it again"
    return Outcome(cell, said or f"exit code {code}")


def last_line(log: Path) -> str:
    """The last line of a file that says something; empty where there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let runs save a checkpoint and end; a second Ctrl-C ends them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise
