"""What became of a command: its exit code, what it wrote and said, and what of that it never may."""

from __future__ import annotations

import io
import re
import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpcl.benchmarks._files.cache import cache_folder
from nlpcl.cli import main
from nlpcl.records.record import Record

LONGEST = 400
"""Characters of a sentence on standard error."""
SECONDS = 20
"""After so many a command hangs."""
# But for tabs and line ends: what a terminal obeys, and what turns the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NEVER = {
    "control character": CONTROL,
    "address": re.compile("object at 0x"),
    "traceback": re.compile("^Traceback", re.M),
}
TEMPORARY = re.compile(r"\.[0-9a-f]{32}$")


class Hangs(Exception):
    """A command takes too long."""


@dataclass
class Outcome:
    """The end of a command.

    :param code: its exit code; None if it raised.
    :param record: the record that it wrote, if any.
    :param faults: what it must not have done.
    """

    code: int | None = None
    record: Record | None = None
    faults: list[str] = field(default_factory=list)


def outcome_of(argv: list[str], out: Path) -> Outcome:
    """Run a command in this process.

    :param out: the folder that its records go to.
    """
    outcome = Outcome()
    printed, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(printed), redirect_stderr(said):
        with _time_limit(), _temporary_files_in(temporary):
            try:
                outcome.code = main(argv)
                printed.flush()
            except Exception:  # whatever it is, it should have been a sentence
                return Outcome(faults=[traceback.format_exc(limit=-3)])
        said.flush()
        stale = [path for folder in (out, cache_folder()) for path in folder.rglob("*") if TEMPORARY.search(path.name)]
        stale += Path(temporary).iterdir()
    lines, text = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in (said, printed))
    outcome.faults = [f"a stale file {path.name}" for path in stale]
    outcome.faults += [
        *_faults_of_end(outcome.code, lines.splitlines()),
        *_faults_of_text(text),
        *_faults_of_text(lines),
    ]
    records = sorted(out.glob("*/record.json"))
    if outcome.code == 0 and records:
        outcome.record = Record.load(records[0])
    return outcome


@contextmanager
def _time_limit() -> Iterator[None]:
    def raise_it(*args: Any) -> None:
        raise Hangs(f"no end after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def _faults_of_end(code: int | None, lines: list[str]) -> list[str]:
    """Beside progress, standard error holds one sentence, at its end, if the code is 2, and otherwise none."""
    faults = [f"a line of {len(line)} characters: {line[:200]!a}" for line in lines if len(line) > LONGEST]
    at = [i for i, line in enumerate(lines) if line.startswith("nlpcl: error: ")]
    if code not in (0, 2) or at != ([len(lines) - 1] if code == 2 else []):
        faults.append(f"exit code {code} after {lines[-3:]!a}")
    return faults


def _faults_of_text(text: str) -> list[str]:
    found = {what: pattern.search(text) for what, pattern in NEVER.items()}
    return [f"a {what}: {text[max(0, at.start() - 100) : at.end() + 30]!a}" for what, at in found.items() if at]
