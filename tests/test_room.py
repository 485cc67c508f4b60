"""A disk that fills up while a run trains: its record has its room, and nothing that was done is lost."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.errors import UsageError
from nlpcl.records.record import Record
from nlpcl.runs.room import Room
from nlpcl.training.strategy import ContinualStrategy
from tests.helpers.disks import largest_file
from tests.helpers.messages import mentions, refused
from tests.helpers.records import record_of
from tests.helpers.runs import content, run, spec_of


def full(*_: Any, **__: Any) -> None:
    raise UsageError("could not write it (No space left on device).")


@pytest.mark.parametrize("tasks", [1, 20, 300])
def test_the_room_is_large_enough_and_becomes_the_record(tasks: int, tmp_path: Path) -> None:
    names = [{"name": str(i), "labels": ["good", "bad"], "train": 9999} for i in range(tasks)]
    empty, done = [[None] * tasks] * tasks, [[0.123456] * tasks] * tasks
    seconds = {"total": 99999.999, "setup": 1.5, "train": [12345.678] * tasks, "evaluate": [12345.678] * (tasks + 1)}
    kept = [dict.fromkeys(("model", "adapters", "gates", "memory", "fisher", "projectors"), 10**12)] * tasks
    before = record_of(matrices={"accuracy": empty, "macro_f1": empty}, data={"tasks": names}, sizes={"kept_bytes": []})
    after = record_of(
        matrices={"accuracy": done, "macro_f1": done, "initial": [0.123456] * tasks},
        data={"tasks": names},
        sizes={"kept_bytes": kept},
        measured={"seconds": seconds},
    )
    room = Room(tmp_path / "run")
    room.take(before)
    (file,) = (tmp_path / "run").iterdir()
    taken = file.stat()
    room.save(after)
    (path,) = (tmp_path / "run").iterdir()
    assert path.read_bytes() == after.content() and path.name == "record.json"
    assert path.stat().st_size <= taken.st_size < 3 * path.stat().st_size + 2**16
    assert path.stat().st_ino == taken.st_ino, "it was written where the room was"


def test_a_run_on_a_disk_that_fills_up_ends_with_its_record(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, scenario = spec_of("ncl", models)
    whole = run(spec, three_tasks[scenario], tmp_path / "whole")
    monkeypatch.setattr(Record, "save", full)
    record = run(spec, three_tasks[scenario], tmp_path / "full")
    (path,) = (tmp_path / "full").rglob("*.json")
    assert path.name == "record.json" and content(Record.load(path)) == content(record) == content(whole)
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_record_that_fits_nowhere_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the folder was taken away; a failed run's is not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    place = tmp_path / "runs"
    room, record = Room(place / "run"), record_of()
    for failed in (True, False):
        room.take(record)
        shutil.rmtree(place)
        place.touch()
        with refused("record.json" if not failed else "failed.json") as caught:
            room.save(record_of(status="failed", error="x") if failed else record)
        place.unlink()
        kept = list((tmp_path / "tmp").rglob("*.json"))
        assert len(kept) == (not failed)
    assert str(kept[0]) in str(caught.value) and Record.load(kept[0]) == record


def test_why_a_run_failed_is_told_on_a_full_disk(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, scenario = spec_of("ncl", models)
    backward = ContinualStrategy.backward

    def poisoned(strategy: Any) -> None:
        if strategy.clock.train_exp_counter == 1:
            shutil.rmtree(tmp_path / "runs")  # with the room
            (tmp_path / "runs").touch()
            strategy.loss = strategy.loss * float("nan")
        backward(strategy)

    monkeypatch.setattr(ContinualStrategy, "backward", poisoned)
    with refused("finite task1 --learning-rate"):
        run(spec, three_tasks[scenario], tmp_path / "runs")


def test_without_room_a_run_does_not_begin(
    tiny: str, three_tasks: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the sentence does not send its checkpoints away."""
    argv = [
        "run",
        "--strategy",
        "ncl",
        "--benchmark",
        "folder",
        "--data-root",
        str(three_tasks["til"]),
        "--model",
        tiny,
    ]
    argv += ["--set", "adapter_size=8", "--max-length", "32", "--device", "cpu", "--out", str(tmp_path / "runs")]
    with largest_file(2000):
        assert main(argv) == 2
    shown = capsys.readouterr().err
    assert mentions(shown, "records large make room") and not mentions(shown, "--out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "make room"), (errno.EROFS, "another --out")])
def test_a_run_that_cannot_be_locked(
    number: int, advice: str, models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    def opened(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number))
        return opens(path, *arguments, **named)

    opens = os.open
    spec, scenario = spec_of("ncl", models)
    monkeypatch.setattr(os, "open", opened)
    with refused(advice) as caught:
        run(spec, three_tasks[scenario], tmp_path / "runs")
    assert mentions(str(caught.value), "--out") == (number == errno.EROFS) and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_log_on_a_full_disk_ends_no_run(
    tiny: str, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["run", "--strategy", "ncl", "--benchmark", "folder", "--data-root", str(three_tasks["til"])]
    argv += ["--model", tiny, "--set", "adapter_size=8", "--max-length", "32", "--device", "cpu", "--epochs", "1"]
    with monkeypatch.context() as patch, open("/dev/full", "w", buffering=1) as log:
        patch.setattr(sys, "stderr", log)
        codes = [main([*argv, "--out", str(tmp_path)]), main([*argv, "--out", str(tmp_path), "--strategy", "none"])]
        with suppress(OSError):
            log.close()
    assert codes == [0, 2] and len(list(tmp_path.rglob("record.json"))) == 1


def test_a_full_disk_that_nothing_else_knows_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.log")

    monkeypatch.setattr(Record, "load", fails)
    assert main(["run", "--from", str(tmp_path / "record.json")]) == 2
    assert mentions(capsys.readouterr().err, "a.log space make room")
