"""What became of a command: its exit code, what it wrote and said, and what of that it never may."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from nlpcl.cli import main
from nlpcl.records.record import Record

LONGEST = 400
"""Characters of a sentence on standard error."""
SECONDS = 20
"""After so many a command hangs."""
NEVER = {
    # But for tabs and line ends: what a terminal obeys, and what turns the direction of writing.
    "control character": re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"),
    "address": re.compile("object at 0x"),
    "traceback": re.compile("^Traceback", re.M),
}
TEMPORARY = re.compile(r"\.[0-9a-f]{32}$")
FORK = multiprocessing.get_context("fork")  # all is imported already


@dataclass
class Outcome:
    """The end of a command.

    :param code: its exit code; None if it raised, hung or died.
    :param record: the record that it wrote, if any.
    :param faults: what it must not have done.
    """

    code: int | None
    record: Record | None = None
    faults: list[str] = field(default_factory=list)


class Runner:
    """A copy of this process that runs commands, and can be ended where foreign code hangs."""

    def __init__(self) -> None:
        self._started: tuple[BaseProcess, Connection] | None = None

    def outcome_of(self, argv: list[str], out: Path, cache: Path) -> Outcome:
        """Run a command.

        :param out: the folder that its records go to.
        :param cache: the user's cache folder.
        """
        with tempfile.TemporaryDirectory() as said, tempfile.TemporaryDirectory() as temporary:
            commands = self._commands()
            commands.send((argv, said, temporary, str(cache)))
            try:
                answered = commands.poll(SECONDS)
                code, fault = commands.recv() if answered else (None, f"no end after {SECONDS} seconds")
            except EOFError:
                code, fault = None, "the process died"
            if fault is not None:
                self.stop()
                return Outcome(None, faults=[fault])
            texts = [(Path(said) / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
            stale = list(Path(temporary).iterdir())
        stale += [path for folder in (out, cache) for path in folder.rglob("*") if TEMPORARY.search(path.name)]
        faults = [f"a stale file {path.name}" for path in stale] + _faults_of_end(code, texts[1].splitlines())
        for text in texts:
            found = {what: pattern.search(text) for what, pattern in NEVER.items()}
            faults += [
                f"{what}: {text[max(0, at.start() - 100) : at.end() + 30]!a}" for what, at in found.items() if at
            ]
        records = sorted(out.glob(f"{'[0-9a-f]' * 16}/record.json"))
        return Outcome(code, Record.load(records[0]) if code == 0 and records else None, faults)

    def _commands(self) -> Connection:
        if self._started is None:
            ours, theirs = FORK.Pipe()
            process = FORK.Process(target=_serve, args=(theirs, ours), daemon=True)
            process.start()
            theirs.close()
            self._started = process, ours
        return self._started[1]

    def stop(self) -> None:
        """End the process; the next command gets a new one."""
        if self._started is not None:
            process, commands = self._started
            process.kill()
            process.join()
            commands.close()
            self._started = None


def _serve(commands: Connection, other_end: Connection) -> None:
    """Run commands with all that they say in files; send the exit code, and the exception that one raised."""
    other_end.close()  # or this process would outlive the other
    while True:
        argv, said, tempfile.tempdir, os.environ["XDG_CACHE_HOME"] = commands.recv()
        for descriptor, name, errors in ((1, "out", "strict"), (2, "err", "backslashreplace")):
            file = (Path(said) / name).open("w", encoding="utf-8", errors=errors)
            os.dup2(file.fileno(), descriptor)  # what foreign code prints, too
            setattr(sys, f"std{name}", file)
        code, fault = None, None
        try:
            code = main(argv)
            sys.stdout.flush()
        except Exception:  # whatever it is, it should have been a sentence
            fault = traceback.format_exc(limit=-3)[-2000:]
        sys.stderr.flush()
        commands.send((code, fault))


def _faults_of_end(code: int | None, lines: list[str]) -> list[str]:
    """Beside progress, standard error holds one sentence, at its end, if the code is 2, and otherwise none."""
    faults = [f"a line of {len(line)} characters: {line[:200]!a}" for line in lines if len(line) > LONGEST]
    at = [i for i, line in enumerate(lines) if line.startswith("nlpcl: error: ")]
    if code not in (0, 2) or at != ([len(lines) - 1] if code == 2 else []):
        faults.append(f"exit code {code} after {lines[-3:]!a}")
    return faults
