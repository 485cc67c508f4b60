"""One run of a sweep: what it is, where it is computed, and what became of it."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer

from nlpcl.config.arguments import Request
from nlpcl.config.spec import CompleteSpec
from nlpcl.errors import NOT_BOTH, UsageError
from nlpcl.records.record import Record

LOG = "log.txt"
DataRoot = Annotated[
    str | None, typer.Option("--data-root", "--data-dir", envvar="NLPCL_DATA", help="Folder with the data.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
EvalBatchSize = Annotated[int, typer.Option(min=1, max=1_000_000, help="Examples in a batch at test.")]


@dataclass(frozen=True)
class Execution:
    """Where and how runs are computed: the options of `nlpcl run` that change no result."""

    out: Annotated[Path, typer.Option("--out", "--output-dir", help="Folder for records.")] = Path("runs")
    data_root: DataRoot = None
    device: Device = "auto"
    eval_batch_size: EvalBatchSize = 128
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between checkpoints within a task; 0 means none.")
    ] = 10
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the encoder with torch.compile; not with --gradient-checkpointing."),
    ] = False
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Save memory: compute activations again in the backward pass."),
    ] = False

    def __post_init__(self) -> None:
        if self.compile and self.gradient_checkpointing:
            raise UsageError(NOT_BOTH)

    def argv(self) -> list[str]:
        """Return those that are not at their default, as options of `nlpcl run`."""
        chosen = {name: value for name, value in vars(self).items() if value != getattr(Execution, name)}
        flags = {f"--{name.replace('_', '-')}": value for name, value in chosen.items()}
        return [part for flag, value in flags.items() for part in ([flag] if value is True else [flag, str(value)])]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; `label` says how it differs from the others."""

    request: Request
    id: str
    spec: CompleteSpec
    label: str

    def argv(self, execution: Execution) -> list[str]:
        """Return the arguments of `nlpcl` that run it."""
        return ["run", *self.request.argv(), *execution.argv()]

    def line(self, execution: Execution) -> str:
        """Return the command as one line of a shell.

        :raises UsageError: a value in it holds a line break or another character that cannot be shown.
        """
        line = shlex.join(["nlpcl", *self.argv(execution)])
        if not line.isprintable():
            raise UsageError(f"no line of a job array can be {line}: it holds a line break or what cannot be shown.")
        return line

    def log(self, execution: Execution) -> Path:
        """Return the file that takes what the run prints."""
        return execution.out / self.id / LOG


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `error` is None if it has a record."""

    cell: Cell
    error: str | None


class SweepProgress(Protocol):
    """What a sweep tells while it runs; `nlpcl.cli.display.SweepReporter` shows it."""

    def running(self, cells: Sequence[Cell]) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...
    def stopping(self, runs: int) -> None: ...


def finished(path: Path) -> Record | None:
    """Return the record of a run that is done; None if there is none, it is damaged, of a failed run or misplaced."""
    try:
        record = Record.load(path)
    except UsageError:
        return None
    return record if record.status == "ok" and record.id == path.parent.name else None


def outcome(cell: Cell, execution: Execution, code: int) -> Outcome:
    """Return how a run ended, whose process ended with an exit code, or with minus the number of a signal."""
    if finished(execution.out / cell.id / "record.json") is not None:
        return Outcome(cell, None)
    if code < 0:
        why = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return Outcome(cell, f"killed by {signal.Signals(-code).name}{why}")
    error = last_line(cell.log(execution)).removeprefix("nlpcl: error: ")
    if code == 0 and error.startswith("record: "):  # of another id
        error = "the data or the encoder changed since the sweep was planned: start it again"
    return Outcome(cell, error or f"exit code {code}")


def last_line(log: Path) -> str:
    """Return the last line of a file that is not blank; an empty text if there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
