"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import os
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
from tests.helpers.messages import mentions, refused
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
        assert holder.stdout is not None and holder.stdout.readline() and lock.is_locked(place / ".lock")
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
    assert not lock.is_locked(place / ".lock")
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


@pytest.mark.parametrize("comes", [True, False])
def test_who_waited_at_a_file_that_is_gone_is_not_in(
    comes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second opens the first one's file, which that removes as it leaves; a third may have made a new one."""
    file = tmp_path / "run" / ".lock"
    first, third = lock.acquire(file, 0), list[lock.Lock]()
    flock = fcntl.flock

    def after_the_first_left(handle: int, operation: int) -> None:
        if first.handle is not None:  # it is the second that asks, with the file open
            lock.release(first)
            file.parent.rmdir()
            third.extend([lock.acquire(file, 0)] if comes else [])
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_first_left)
    if comes:
        with refused(f"process {os.getpid()}"):
            lock.acquire(file, 0.2)
        lock.release(third.pop())
    second = lock.acquire(file, 1)
    assert lock.is_locked(file) and file.read_text().startswith(f"process {os.getpid()} ")
    lock.release(second)
    lock.release(second)
    assert not lock.is_locked(file) and not file.exists()


COUNT = """
import sys, time
from pathlib import Path
from nlpcl.runs import lock
lock.POLL, lock.PATIENCE = 0.001, 60
folder, counter = map(Path, sys.argv[1:])
for _ in range(100):
    with lock.run_lock(folder):
        number = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(number + 1))
"""


def test_processes_that_come_and_go_are_in_one_at_a_time(tmp_path: Path) -> None:
    """Each removes file and folders as it leaves, while others make them."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    argv = [sys.executable, "-c", COUNT, str(tmp_path / "runs" / "run"), str(counter)]
    processes = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 4
    assert counter.read_text() == "400" and not (tmp_path / "runs" / "run").exists()


def test_a_file_that_is_no_longer_ours_is_left_alone(tmp_path: Path) -> None:
    """A user has removed it, and another process has made a new one."""
    file = tmp_path / ".lock"
    first = lock.acquire(file, 0)
    file.unlink()
    second = lock.acquire(file, 0)
    lock.release(first)
    assert file.exists() and lock.is_locked(file)
    lock.release(second)


@pytest.mark.parametrize("number", lock.WITHOUT_LOCKS)
def test_where_no_file_can_be_locked_nothing_is(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.run_lock(tmp_path / "run"), lock.run_lock(tmp_path / "run"):
        assert not lock.is_locked(tmp_path / "run" / ".lock")


@pytest.mark.parametrize("kind", ["folder", "file above", "dangling link above", "loop"])
def test_a_lock_that_cannot_be_made(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "run" / ".lock"
    if kind == "folder":
        file.mkdir(parents=True)
    elif kind == "file above":
        file.parent.write_text("")
    else:
        file.parent.symlink_to("nowhere/there" if kind.startswith("dangling") else file.parent)
    with refused("run --out"):
        lock.acquire(file, 0)


def test_a_pipe_in_the_place_of_a_lock_is_no_hang(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    os.mkfifo(file)
    first = lock.acquire(file, 0)
    with refused("--out"):
        lock.acquire(file, 0)
    lock.release(first)
    assert not file.exists()
