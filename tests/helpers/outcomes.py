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
from pathlib import Path

from nlpcl.benchmarks._files.cache import cache_folder
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
FORK = multiprocessing.get_context("fork")  # all is imported already, and a hang in foreign code can be ended


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


def outcome_of(argv: list[str], out: Path) -> Outcome:
    """Run a command in a copy of this process.

    :param out: the folder that its records go to.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as said, tempfile.TemporaryDirectory() as temporary:
        process = FORK.Process(target=_run, args=(argv, Path(said), temporary, sender))
        process.start()
        sender.close()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            return Outcome(None, faults=[f"no end after {SECONDS} seconds"])
        if not receiver.poll():
            return Outcome(None, faults=[f"the process died: {process.exitcode}"])
        code, fault = receiver.recv()
        texts = [(Path(said) / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
        stale = [path for folder in (out, cache_folder()) for path in folder.rglob("*") if TEMPORARY.search(path.name)]
        stale += Path(temporary).iterdir()
    if fault is not None:
        return Outcome(code, faults=[fault])
    faults = [f"a stale file {path.name}" for path in stale] + _faults_of_end(code, texts[1].splitlines())
    for text in texts:
        found = {what: pattern.search(text) for what, pattern in NEVER.items()}
        faults += [f"{what}: {text[max(0, at.start() - 100) : at.end() + 30]!a}" for what, at in found.items() if at]
    records = sorted(out.glob(f"{'[0-9a-f]' * 16}/record.json"))
    return Outcome(code, Record.load(records[0]) if code == 0 and records else None, faults)


def _run(argv: list[str], said: Path, temporary: str, sender: Connection) -> None:
    """Run a command, with all that it says in files, and send its exit code and the exception that it raised."""
    tempfile.tempdir = temporary
    for descriptor, name, errors in ((1, "out", "strict"), (2, "err", "backslashreplace")):
        file = (said / name).open("w", encoding="utf-8", errors=errors)
        os.dup2(file.fileno(), descriptor)  # what foreign code prints, too
        setattr(sys, f"std{name}", file)
    code, fault = None, None
    try:
        code = main(argv)
        sys.stdout.flush()
    except Exception:  # whatever it is, it should have been a sentence
        fault = traceback.format_exc(limit=-3)[-2000:]
    sys.stderr.flush()
    sender.send((code, fault))


def _faults_of_end(code: int | None, lines: list[str]) -> list[str]:
    """Beside progress, standard error holds one sentence, at its end, if the code is 2, and otherwise none."""
    faults = [f"a line of {len(line)} characters: {line[:200]!a}" for line in lines if len(line) > LONGEST]
    at = [i for i, line in enumerate(lines) if line.startswith("nlpcl: error: ")]
    if code not in (0, 2) or at != ([len(lines) - 1] if code == 2 else []):
        faults.append(f"exit code {code} after {lines[-3:]!a}")
    return faults
