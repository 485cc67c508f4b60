"""Checkpoints that are damaged, foreign or cannot be written; runs that are killed, stopped or diverge."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlpcl.cli import main
from nlpcl.config.spec import RunSpec
from nlpcl.leaderboard.files import read_runs
from nlpcl.records.record import Record
from nlpcl.runs import results
from nlpcl.runs import run as experiment
from nlpcl.runs.checkpoint_folder import CheckpointFolder
from nlpcl.runs.identity import identified
from nlpcl.runs.progress import RunProgress
from nlpcl.runs.restore import Restore
from nlpcl.runs.state import Capture, Streams
from nlpcl.training.internals import version_of
from nlpcl.training.strategy import ContinualStrategy
from tests.helpers.checkpoints import rewrite
from tests.helpers.messages import mentions, refused
from tests.helpers.runs import Started, content, interrupted_run, run, spec_of


@pytest.fixture(scope="module")
def interrupted(models: dict[str, str], three_tasks: dict[str, Path], tmp_path_factory: Any) -> Started:
    """A spec, the folder of its run, which ended within the second task, and the record it should end with."""
    return interrupted_run("ncl", models, three_tasks, tmp_path_factory.mktemp("interrupted"))


def goes_on(
    spec: RunSpec, place: Path, three_tasks: dict[str, Path], tmp: Path, change: Callable[[Path], None]
) -> Record:
    """The record of the run that goes on from `place` once its checkpoints have been changed."""
    out = tmp / "again"
    shutil.copytree(place, out / spec.id, symlinks=True)
    change(out / spec.id / "checkpoints")
    try:
        return run(spec, three_tasks["til"], out)
    finally:
        shutil.rmtree(out)


def damaged(file: Path, cut: int | None, bit: int) -> None:
    raw = bytearray(file.read_bytes())
    if cut is not None:
        raw = raw[: cut % len(raw)]
    else:
        raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    file.unlink()  # not through a hard link
    file.write_bytes(raw)


def test_a_checkpoint_is_there(interrupted: Started) -> None:
    numbers = [int(path.name) for path in (interrupted[1] / "checkpoints").iterdir()]
    assert sorted(numbers) == [10, 11]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_are_never_loaded(data: st.DataObject, interrupted: Started, tmp_path: Path) -> None:
    """Any byte of any file cut off or changed: the checkpoint is stepped past, the one before is found."""
    spec, place, _ = interrupted
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(place / "checkpoints", tmp_path / "copy")
    files = sorted((tmp_path / "copy" / "11").iterdir())
    file = data.draw(st.sampled_from(files))
    cut = data.draw(st.none() | st.integers(0, 2**24))
    damaged(file, cut, data.draw(st.integers(0, 2**27)))
    folder = CheckpointFolder(tmp_path / "copy", spec.id)
    found = folder.newest()
    assert found is not None and found[0].name == "10"
    assert len(folder.faults) == 1 and mentions(folder.faults[0], "11")
    assert not (tmp_path / "copy" / "11").exists()


def test_what_cannot_be_read_now_is_left_as_it_is(
    interrupted: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a disk or a file server fails for a moment: a checkpoint may be whole all the same."""
    spec, place, _ = interrupted
    shutil.copytree(place / "checkpoints", tmp_path / "copy")

    def failing(path: Path, *args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder = CheckpointFolder(tmp_path / "copy", spec.id)
    with monkeypatch.context() as patch, refused("11 Input/output"):
        patch.setattr(Path, "open", failing)
        folder.newest()
    found = folder.newest()
    assert found is not None and found[0].name == "11"


@pytest.mark.parametrize("seed", range(3))
def test_a_run_whose_checkpoint_is_damaged_ends_all_the_same(
    seed: int, interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path
) -> None:
    """From the checkpoint before, or, where both are damaged, from the start."""
    spec, place, whole = interrupted
    rng = random.Random(seed)

    def change(checkpoints: Path) -> None:
        for number in ("10", "11")[seed % 2 :]:
            file = rng.choice(sorted((checkpoints / number).iterdir()))
            damaged(file, rng.choice([None, rng.randrange(1 << 20)]), rng.randrange(1 << 23))

    again = goes_on(spec, place, three_tasks, tmp_path, change)
    assert content(again) == content(whole)
    assert again.measured.resumed == (1 if seed % 2 else 0)


@pytest.mark.parametrize(
    "shape", ["", "null", "[]", "{}", "3", '{"head.json": 1}', '{"../11/head.json": "x"}', '{"format": 1}', "\udcff"]
)
@pytest.mark.parametrize("name", ["sums.json", "head.json"])
def test_json_of_another_shape_is_damage(name: str, shape: str, interrupted: Started, tmp_path: Path) -> None:
    spec, place, _ = interrupted
    shutil.copytree(place / "checkpoints", tmp_path / "copy")
    rewrite(tmp_path / "copy" / "11", name, shape.encode(errors="surrogateescape"))
    folder = CheckpointFolder(tmp_path / "copy", spec.id)
    found = folder.newest()
    assert found is not None and found[0].name == "10"


@pytest.mark.parametrize("name", ["sums.json", "head.json", "start.safetensors"])
def test_a_named_pipe_is_damage(name: str, interrupted: Started, tmp_path: Path) -> None:
    """It would make its reader wait."""
    spec, place, _ = interrupted
    shutil.copytree(place / "checkpoints", tmp_path / "copy")
    (tmp_path / "copy" / "11" / name).unlink()
    os.mkfifo(tmp_path / "copy" / "11" / name)
    found = CheckpointFolder(tmp_path / "copy", spec.id).newest()
    assert found is not None and found[0].name == "10"


def test_foreign_and_newer_checkpoints(interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path) -> None:
    """One of another spec is stepped past, one of a newer version is refused and left alone."""
    spec, place, whole = interrupted

    def with_head(**change: Any) -> Callable[[Path], None]:
        def apply(checkpoints: Path) -> None:
            for path in checkpoints.iterdir():
                head = json.loads((path / "head.json").read_text())
                rewrite(path, "head.json", json.dumps({**head, **change}).encode())

        return apply

    of_another = {**json.loads((place / "checkpoints/11/head.json").read_text())["record"], "spec": {}}
    for other in ({"record": of_another}, {"format": 1}):
        again = goes_on(spec, place, three_tasks, tmp_path, with_head(**other))
        assert content(again) == content(whole) and again.measured.resumed == 0
    with refused("11 version --fresh"):
        goes_on(spec, place, three_tasks, tmp_path, with_head(format=99))


def test_fresh_starts_over(interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path) -> None:
    spec, place, whole = interrupted
    shutil.copytree(place, tmp_path / spec.id)
    record = experiment.run(spec, data_root=three_tasks["til"], out=tmp_path, device="cpu", fresh=True)
    assert record.measured.resumed == 0 and content(record) == content(whole)


def test_a_full_disk_keeps_the_last_good_checkpoint(
    interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the fifth checkpoint is written and stays full; the run says so and goes on."""
    spec, _, whole = interrupted
    said: list[str] = []
    seen: list[set[str]] = []
    syncs, opened = 0, os.open
    place = tmp_path / spec.id / "checkpoints"

    def sync(path: Any, *args: Any, **kwargs: Any) -> int:
        nonlocal syncs
        if place in (Path(path), *Path(path).parents):
            syncs += 1
            if syncs > 4 * 5 + 2:  # three or more files, the new folder, and the one that holds it
                seen.append({entry.name for entry in place.iterdir() if entry.name.isdigit()})
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", sync)
    monkeypatch.setattr(RunProgress, "say", lambda progress, sentence: said.append(sentence))
    record = run(spec, three_tasks["til"], tmp_path)
    assert content(record) == content(whole)
    assert any(mentions(line, "checkpoint space") for line in said)
    assert len(seen) > 1 and all(len(names) == 2 and names == seen[0] for names in seen)


def test_a_checkpoint_for_which_there_is_no_memory_stays(
    interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    spec, place, _ = interrupted
    shutil.copytree(place, tmp_path / spec.id)
    monkeypatch.setattr(Restore, "value", fails)
    with refused("memory before"):
        run(spec, three_tasks["til"], tmp_path)
    assert (tmp_path / spec.id / "checkpoints" / "11").exists()


def test_what_a_killed_run_was_writing_is_removed(
    interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next run stops before it writes."""

    def stops(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    spec, place, _ = interrupted
    shutil.copytree(place, tmp_path / spec.id)
    (tmp_path / spec.id / "checkpoints" / "9.part").mkdir()
    (tmp_path / spec.id / ".room").write_text("of a killed run")
    monkeypatch.setattr(experiment, "fit", stops)
    with pytest.raises(KeyboardInterrupt):
        run(spec, three_tasks["til"], tmp_path)
    left = {path.name for path in (tmp_path / spec.id).rglob("*")}
    assert "11" in left and not left & {"9.part", ".room"}


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is saved."""
    spec, _, _ = interrupted
    backward = ContinualStrategy.backward

    def poisoned(strategy: Any) -> None:
        if strategy.clock.train_exp_counter == 1 and strategy.clock.train_exp_iterations == 4:
            strategy.loss = strategy.loss * float("nan")
        backward(strategy)

    monkeypatch.setattr(ContinualStrategy, "backward", poisoned)
    place = tmp_path / spec.id
    with refused("5 task1 11"):
        run(spec, three_tasks["til"], tmp_path)
    failed = Record.load(place / "failed.json")
    assert failed.status == "failed" and failed.error is not None and "step 5" in failed.error
    assert [found.record.error for found in read_runs(tmp_path)] == [failed.error], "a comparison tells of it"
    folder = CheckpointFolder(place / "checkpoints", spec.id)
    found = folder.newest()
    assert found is not None and found[0].name == "11"
    for part in ("start", "now"):
        stored = folder.read(found[0], part)
        assert stored is not None and all(t.isfinite().all() for t in stored[1].values() if t.is_floating_point())


def test_a_signal_before_the_training_ends_the_run(
    interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "build_model", lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        run(interrupted[0], three_tasks["til"], tmp_path)


def test_going_on_elsewhere_is_told(
    interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    versions = results.versions()
    monkeypatch.setattr(results, "versions", lambda: {**versions, "threads": "64"})
    monkeypatch.setattr(RunProgress, "say", lambda progress, sentence: said.append(sentence))
    goes_on(interrupted[0], interrupted[1], three_tasks, tmp_path, lambda checkpoints: None)
    assert any(mentions(line, f"threads {versions['threads']} 64") for line in said)


def test_a_tensor_in_the_place_of_a_frozen_one_is_stored(benchmark_of: Any) -> None:
    """And so is one that was written to."""
    frozen, other = torch.ones(2), torch.ones(2)
    capture = Capture(False, {frozen: version_of(frozen)}, Streams(benchmark_of()))
    assert capture.node(other, "other")[0] == "tensor"
    assert capture.node(frozen, "frozen")[0] == "kept"
    frozen.mul_(2)
    assert Capture(False, capture.untouched, capture.streams).node(frozen, "frozen")[0] == "tensor"


class Process:
    """`nlpcl run` in a process of its own."""

    def __init__(self, record: Path, spec_id: str, root: Path, out: Path) -> None:
        words = ["--data-root", str(root), "--out", str(out), "--device", "cpu", "--checkpoint-minutes", "1e-4"]
        self.checkpoints = out / spec_id / "checkpoints"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nlpcl", "run", "--from", str(record), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def when_it_trains(self, number: int, wait: float, until: float = 120) -> None:
        """Wait for a checkpoint of at least this number in this process's time, and `wait` seconds more."""
        end = time.monotonic() + until
        while time.monotonic() < end and self.process.poll() is None:
            found = [int(path.name) for path in self.checkpoints.glob("*") if path.name.isdigit()]
            if max(found, default=0) >= number:
                time.sleep(wait)
                return
            time.sleep(0.002)
        raise AssertionError(f"no checkpoint {number}: {self.process.communicate(timeout=60)[0]}")

    def ends(self, code: int) -> str:
        said, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == code, said
        return said


def test_a_process_killed_and_stopped_ends_with_the_same_record(
    models: dict[str, str], three_tasks: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL, SIGTERM and SIGINT one after another, each in a process that went on from the one before."""
    spec, scenario = spec_of("hat", models)
    spec = identified(spec.model_copy(update={"epochs": 12, "learning_rate": 0.01}), three_tasks[scenario])
    whole = run(spec, three_tasks[scenario], tmp_path / "whole")
    file = tmp_path / "whole" / spec.id / "record.json"
    rng = random.Random(0)
    for number, name in ((5, "SIGKILL"), (20, "SIGTERM"), (35, "SIGINT")):
        process = Process(file, spec.id, three_tasks[scenario], tmp_path / "killed")
        process.when_it_trains(number, rng.uniform(0, 0.02))
        process.process.send_signal(getattr(signal, name))
        said = process.ends(-9 if name == "SIGKILL" else 130)
        assert name == "SIGKILL" or mentions(said, "stopped interrupted")
    said = Process(file, spec.id, three_tasks[scenario], tmp_path / "killed").ends(0)
    assert mentions(said, "checkpoint")
    record = Record.load(tmp_path / "killed" / spec.id / "record.json")
    assert content(record) == content(whole) and record.measured.resumed == 3


def test_a_checkpoint_of_a_newer_version_is_one_sentence(
    interrupted: Started,
    three_tasks: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec, place, whole = interrupted
    shutil.copytree(place, tmp_path / spec.id)
    file = tmp_path / "record.json"
    whole.save(file)
    for path in (tmp_path / spec.id / "checkpoints").iterdir():
        head = json.loads((path / "head.json").read_text())
        rewrite(path, "head.json", json.dumps({**head, "format": 99}).encode())
    assert main(["run", "--from", str(file), "--data-root", str(three_tasks["til"]), "--out", str(tmp_path)]) == 2
    assert mentions(capsys.readouterr().err, "version")
