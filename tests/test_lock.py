"""One process at a time in a run's folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.config.arguments import Request
from nlpcl.records.record import Record
from nlpcl.runs import lock
from nlpcl.sweeps.cells import Execution, Outcome
from nlpcl.sweeps.local import run_local
from nlpcl.sweeps.plan import plan
from tests.helpers.messages import mentions
from tests.helpers.sweeps import Told

HOLD = """
import sys, pathlib
from nlpcl.runs.lock import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def test_of_two_processes_at_one_run_the_second_is_refused(
    tiny: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the first one's folder alone; once that is killed, the run can be done, and no lock stays behind."""
    monkeypatch.setattr(lock, "PATIENCE", 0)
    fields = {"strategy": "ncl", "model": tiny, "tasks": "1", "train_size": "16", "epochs": "1"}
    request, execution = Request(fields, ("adapter_size=8",)), Execution(tmp_path, device="cpu")
    (cell,) = plan([request], tmp_path).cells
    place, argv = tmp_path / cell.id, cell.argv(execution)
    with subprocess.Popen([sys.executable, "-c", HOLD, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() and lock.is_locked(place)
        assert main(argv) == main([*argv, "--fresh"]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("nlpcl: error: ") == shown.err.count(str(tmp_path)) == 2
        told = Told()
        run_local([cell], 1, execution, told)
        assert told.outcomes == [Outcome(cell, lock.BUSY)] and [path.name for path in place.iterdir()] == [".lock"]
        assert shown.err.count(f"process {holder.pid} ") == 2
        holder.kill()
    held = lock.acquire(place / ".sweep", 0)  # as another sweep has it, whose run is not yet in the folder
    run_local([cell], 1, execution, told)
    assert mentions(told.outcomes.pop().error, lock.BUSY)
    lock.release(held)
    assert not lock.is_locked(place)
    assert main(argv) == 0 and [path.name for path in place.iterdir()] == ["record.json"]
    monkeypatch.setattr(sys, "executable", None)  # what another sweep has done since the plan starts no process
    run_local([cell], 1, execution, told)
    assert told.outcomes[1] == Outcome(cell, None) and Record.load(place / "record.json").status == "ok"


def test_a_run_that_comes_to_nothing_leaves_no_folder(tiny: str, tmp_path: Path) -> None:
    """But the one that was there."""
    argv = ["run", "--strategy", "ncl", "--benchmark", "folder", "--data-root", str(tmp_path / "nowhere")]
    there = tmp_path / "there"
    there.mkdir()
    for out in (there, tmp_path / "new"):
        assert main([*argv, "--model", tiny, "--out", str(out)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and list(there.iterdir()) == []
