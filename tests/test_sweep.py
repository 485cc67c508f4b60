"""Sweeps: what is left to do, and runs that fail, are killed or interrupted."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.cli.display import SweepReporter, time_in_words
from nlpcl.config.arguments import Request
from nlpcl.records.record import Record
from nlpcl.sweeps import local
from nlpcl.sweeps.cells import Cell, Execution, Outcome
from nlpcl.sweeps.grid import Grid
from nlpcl.sweeps.local import run_local
from nlpcl.sweeps.plan import estimates, plan
from tests.helpers.messages import mentions, refused
from tests.helpers.records import record_of
from tests.helpers.sweeps import Told

SMALL = {"tasks": "2", "train_size": "16", "epochs": "1"}
ASSIGN = ("adapter_size=8",)


def requests(tiny: str, *more: dict[str, str], **fields: str) -> list[Request]:
    return [Request({**SMALL, "model": tiny, **fields, **one}, ASSIGN) for one in more or ({},)]


def test_printed_commands_ask_for_the_runs_of_the_grid(tiny: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "with blank"
    sets = {"adapter_size": (8, 16), "warmup": (0.0, 0.2)}
    argv = ["--strategy", "ncl,hat", "--order", "3,seed:2", "--epochs", "laptop=2,*=3", "--tasks", "2", "--model", tiny]
    argv += ["--set", "adapter_size=8,16", "--set", "warmup=0.0,0.2", "--out", str(out)]
    assert main(["sweep", *argv, "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = {
        json.dumps([strategy, order, *values])
        for strategy, order, *values in itertools.product(("ncl", "hat"), (3, "seed:2"), *sets.values())
    }
    found, ids = [], set()
    for line in lines:
        command = shlex.split(line)
        assert command[:2] == ["nlpcl", "run"]
        assert main([*command[1:], "--dry-run", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        spec = answer["spec"]
        assert spec["epochs"] == {"laptop": 2, "*": 3} and answer["record"].startswith(str(out))
        found.append(
            json.dumps([spec["strategy"], spec["order"], spec["backbone_options"]["adapter_size"], spec["warmup"]])
        )
        ids.add(answer["id"])
    assert set(found) == expected and len(ids) == len(lines) == len(expected)
    assert main(["sweep", *argv, "--dry-run"]) == 0
    assert ids == {word for word in capsys.readouterr().out.split() if word in ids}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--strategy ncl,hatt", "hatt hat"),
        ("--strategy hatt,ncl --skip-impossible", "hatt hat"),
        ("--set lamb", "--set lamb"),
        ("--strategy ncl,hat --set lamb=1", "ncl lamb"),
        ("--seed 5-2", "seed 5-2"),
        ("--strategy ncl --order 4-5", "order 0 4"),
        ("--strategy ncl --order laptop,nope", "nope hotel"),
        ("--seed 0-9999999", "0-9999999 100,000"),
        ("--seed 0-999 --order 0-999", "100,000 runs"),
        ("--strategy ncl,ctr --scenario til,dil", "1 4"),
        ("--strategy ctr --scenario dil --skip-impossible", "ctr scenario"),
        ("--file nowhere.toml", "nowhere.toml"),
        ("--jobs 10000 --strategy ncl", "--jobs 10000"),
        ("--cpus 2", "--cpus --ray"),
        ("--ray local --jobs 2", "--jobs --ray"),
        ("--preset nowhere.json", "nowhere.json"),
        ("--strategy hat --set lamb=1 --set lamb=2", "lamb twice"),
        ("--learning-rate 1e-3 --set learning_rate=1e-4,1e-2", "learning_rate twice"),
        ("--jobs 10000 --strategy ncl --dry-run", "--jobs 10000"),
        ("--ray local --memory inf", "--memory"),
        ("--ray local --memory nan --dry-run", "--memory"),
        ("--ray local --memory 0", "--memory"),
        ("--ray local --gpus 1.5", "--gpus"),
        ("--ray local --retries 99999999999", "--retries"),
        ("--ray local --gpus inf", "--gpus"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(line: str, words: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["sweep", *line.split(), "--out", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert mentions(shown.err, words) and shown.err.startswith("nlpcl: error: ")
    assert not (tmp_path / "runs").exists()


def test_the_number_of_runs_is_limited_over_all_grids(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "grids.toml"
    grid = '[[grid]]\nstrategy = "ncl"\nseed = "0-59999"\n'
    file.write_text(grid * 2)
    assert main(["sweep", "--file", str(file), "--print"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and mentions(shown.err, "100,000 120000") and shown.err.count("\n") == 1


TWICE = [
    ("--set patience=8 --set patience=9", "patience"),
    ("--set patience=8 --set patience=8", "patience"),
    ("--learning-rate 0.1 --set learning_rate=0.2", "learning_rate"),
    ("--set weight_decay=0 --set weight-decay=0.1", "weight_decay"),
    ("--seed 1 --seed 2", "--seed"),
    ("--seed=1 --seed=1", "--seed"),
    ("--strategy ewc --baseline ncl", "--strategy"),
    ("--benchmark demo --task asc", "--benchmark"),
    ("--out a --output-dir b", "--out"),
    ("--device cpu --device cpu", "--device"),
]


@pytest.mark.parametrize("command", ["run --dry-run", "sweep --dry-run", "tune"])
@pytest.mark.parametrize(("line", "words"), TWICE)
def test_what_is_given_twice_is_refused(command: str, line: str, words: str, capsys: Any) -> None:
    if command == "tune" and "--output-dir" in line:
        line = "--out a --out b"
    assert main([*command.split(), *line.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and mentions(shown.err, f"{words} twice") and shown.err.count("\n") == 1


def test_flags_and_lists_may_come_twice(capsys: Any) -> None:
    argv = ["run", "--strategy", "ncl", "--dry-run", "--json", "--json", "--set", "patience=8", "--set", "warmup=0.1"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["patience"] == 8
    assert main(["data", "verify", "demo", "--data-root", "a", "--data-root", "b"]) == 2
    assert mentions(capsys.readouterr().err, "--data-root twice")


def test_a_line_break_is_no_part_of_a_job_array(capsys: Any, tmp_path: Path) -> None:
    assert main(["sweep", "--strategy", "ncl", "--order", "0,1", "--out", f"{tmp_path}/two\nlines", "--print"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and mentions(shown.err, "--out") and shown.err.count("\n") == 1


def test_impossible_runs_can_be_left_out(capsys: Any, tmp_path: Path) -> None:
    argv = ["--strategy", "ncl,ctr", "--scenario", "til,dil", "--out", str(tmp_path), "--print", "--skip-impossible"]
    assert main(["sweep", *argv]) == 0
    shown = capsys.readouterr()
    chosen = [(line.split()[3], line.split()[5]) for line in shown.out.splitlines()]
    assert chosen == [("ncl", "til"), ("ncl", "dil"), ("ctr", "til")]
    assert shown.err.count("\n") == 1 and mentions(shown.err, "ctr dil")


def test_only_a_good_record_in_its_place_is_done(tmp_path: Path) -> None:
    asked = [Request({"tasks": "3", "train_size": "20", "strategy": "ncl", "seed": str(seed)}) for seed in range(5)]
    cells = plan([*asked, asked[0]], tmp_path).cells
    assert len({cell.id for cell in cells}) == len(cells) == 5  # a run that is asked for twice is one run
    good, failed, damaged, misplaced, _ = (tmp_path / cell.id / "record.json" for cell in cells)
    records = [record_of("ncl", seed=seed) for seed in range(5)]
    assert [record.id for record in records] == [cell.id for cell in cells]
    records[0].save(good)
    records[1].model_copy(update={"status": "failed", "error": "why"}).save(failed)
    damaged.parent.mkdir()
    damaged.write_text("{")
    records[4].save(misplaced)
    found = plan(asked, tmp_path)
    assert found.done == {cells[0].id} and [cell.id for cell in found.to_run] == [cell.id for cell in cells[1:]]
    assert [cell.label for cell in found.cells] == [f"seed {seed}" for seed in range(5)]


def test_time_is_estimated_from_the_nearest_runs_of_the_same_work(tmp_path: Path) -> None:
    def took(seconds: float, strategy: str = "ewc", **spec: Any) -> Record:
        return record_of(strategy, spec=spec, measured={"seconds": {"total": seconds}})

    def cell(**fields: str) -> Cell:
        return plan([Request({"tasks": "3", "train_size": "20", **fields})], tmp_path).cells[0]

    same, other = cell(strategy="ewc", seed="7", order="2"), cell(strategy="ewc", learning_rate="0.5")
    unknown = [cell(strategy="ncl"), cell(strategy="ewc", train_size="21"), cell(strategy="ewc", epochs="1")]
    near = [took(10, seed=1), took(20, order=3), took(70, weight_decay=0.5), took(300, epochs=300)]
    found = estimates([same, other, *unknown], near)
    assert found[same.id] == pytest.approx((10 + 20) / 2)  # the third differs in a setting, the last in the work
    assert found[other.id] == pytest.approx((10 + 20) / 2)  # one setting away; from the third it is two
    assert [found[cell.id] for cell in unknown] == [None, None, None]
    assert estimates([same], [took(70, weight_decay=0.5), record_of("ewc")]) == {same.id: 70}


def test_a_plan_counts_on_as_many_workers_as_the_run_has(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda device: ["0", "1"])
    monkeypatch.setattr(local, "cores", lambda: 4)
    record = record_of("ncl", seed=9, measured={"seconds": {"total": 60}})
    record.save(tmp_path / record.id / "record.json")
    argv = ["sweep", "--strategy", "ncl", "--tasks", "3", "--train-size", "20", "--out", str(tmp_path), "--dry-run"]
    for more, expected in (
        (["--seed", "0-3"], "about 2 min 0 s for 4 of them, 2 at a time"),
        (["--seed", "0-3", "--jobs", "4"], "about 1 min 0 s for 4 of them, 4 at a time"),
        (["--seed", "0", "--jobs", "4"], "about 1 min 0 s for 1 of them, 4 at a time"),
        (["--seed", "0-3", "--ray", "auto"], "about 4 min 0 s for 4 of them, one at a time; a cluster does as many"),
    ):
        assert main([*argv, *more]) == 0
        assert expected in capsys.readouterr().out


def test_how_runs_are_computed_goes_to_each(tmp_path: Path, capsys: Any) -> None:
    line = "--device cpu --eval-batch-size 7 --checkpoint-minutes 2.5 --compile --data-root data"
    assert main(["sweep", "--strategy", "ncl", *line.split(), "--out", str(tmp_path), "--print"]) == 0
    (command,) = capsys.readouterr().out.splitlines()
    before, after = shlex.split(command), ["nlpcl", "run", "--strategy", "ncl", "--out", str(tmp_path), *line.split()]
    assert before[:6] == after[:6] and sorted(before) == sorted(after)
    assert main([*before[1:], "--dry-run"]) == 0
    assert main(["sweep", "--strategy", "ncl", "--compile", "--gradient-checkpointing", "--print"]) == 2
    assert mentions(capsys.readouterr().err, "--compile --gradient-checkpointing")


def test_the_sweep_of_the_published_table(tmp_path: Path) -> None:
    """All its runs can be; the methods that the table has on each backbone are those of the original toolkit there."""
    grids = Grid.read(Path(__file__).resolve().parents[1] / "leaderboard" / "headline.toml")
    cells = plan((request for grid in grids for request in grid.requests()), tmp_path).cells
    common = {"ncl", "one", "l2", "ewc", "agem", "derpp", "ucl", "owm", "hat"}
    methods = {
        "bert": {"ncl", "one", "mtl"},
        "bert_adapter": common | {"bcl", "ctr"},
        "bert_frozen": common | {"cat", "kan", "srk"},
        "w2v": common | {"cat", "kan", "srk"},
    }
    table = {
        (benchmark, backbone, strategy, order, None)
        for benchmark in ("asc", "dsc", "newsgroups")
        for backbone, strategies in methods.items()
        for strategy in strategies
        for order in range(5)
    } | {("dsc", "bert_adapter", strategy, order, 200) for strategy in ("bcl", "ctr") for order in range(5)}
    specs = [cell.spec for cell in cells]
    assert {(s.benchmark, s.backbone, s.strategy, s.order, s.train_size) for s in specs} == table
    assert len(specs) == len(table)
    assert {s.model for s in specs if s.backbone != "w2v"} == {"bert-base-uncased"}


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(tiny: str, tmp_path: Path, capsys: Any) -> None:
    argv = ["sweep", "--strategy", "ncl", "--tasks", "1", "--train-size", "16", "--epochs", "1"]
    argv += ["--set", "adapter_size=8", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*argv, "--model", f"nowhere,{tiny}"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("failed: ") == 1 and mentions(shown.out, "nowhere")
    assert re.search(r"\b2\D+0\D+1\D", shown.out) and mentions(shown.err, f"2/2 {tiny}")
    (path,) = tmp_path.glob("*/record.json")
    record = path.read_bytes()
    assert main([*argv, "--model", tiny]) == 0
    assert re.search(r"\b1\D+1\D+0\D", capsys.readouterr().out)
    assert path.read_bytes() == record


def fake_python(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of a run, a shell script."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(file))


def test_a_killed_run_and_one_without_a_word_are_told(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan(requests(tiny, {"seed": "0"}, {"seed": "1"}, {"seed": "2"}), tmp_path).cells
    script = 'case "$*" in *"--seed 0"*) kill -9 $$;; *"--seed 1"*) exit 7;; *) echo "nlpcl: error: why"; exit 2;; esac'
    fake_python(tmp_path, script, monkeypatch)
    told = Told()
    run_local(cells, 1, Execution(tmp_path, device="cpu"), told)
    errors = {outcome.cell.label: outcome.error for outcome in told.outcomes}
    assert mentions(errors["seed 0"], "SIGKILL") and mentions(errors["seed 1"], "7") and errors["seed 2"] == "why"


def test_gpus_and_threads_are_dealt_out(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three jobs on six cores and two GPUs: each job has its GPU and its threads."""
    cells = plan(requests(tiny, *({"seed": str(seed)} for seed in range(3))), tmp_path).cells
    fake_python(tmp_path, 'echo "gpu $CUDA_VISIBLE_DEVICES threads $OMP_NUM_THREADS"; sleep 1', monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "visible_gpus", lambda device: ["3", "5"])
    monkeypatch.setattr(local, "cores", lambda: 6)
    told = Told()
    run_local(cells, 3, Execution(tmp_path), told)
    assert [outcome.error for outcome in sorted(told.outcomes, key=lambda o: o.cell.label)] == [
        "gpu 3 threads 2",
        "gpu 5 threads 2",
        "gpu 3 threads 2",
    ]
    with refused("--jobs 7 6"):
        run_local(cells, 7, Execution(tmp_path), told)


def test_gpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7a")
    assert local.visible_gpus("auto") == ["4", "GPU-7a"] and local.visible_gpus("cuda:1") == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert local.visible_gpus("cuda") == ["0", "1"] and local.visible_gpus("cpu") == []


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_sweep_shows(terminal: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    execution = Execution(tmp_path)
    ncl, hat = plan([Request({"strategy": name}) for name in ("ncl", "hat")], tmp_path).cells
    ncl.log(execution).parent.mkdir()
    ncl.log(execution).write_text("task 1/5 [laptop], epoch 1/7, loss 0.693\n\n")
    with SweepReporter(2, execution) as watch:
        watch.running([ncl])
        time.sleep(0.3)  # a terminal is written to four times a second
        watch.ended(Outcome(ncl, None))
        watch.ended(Outcome(hat, "out of\nmemory"))
    shown = capsys.readouterr().err
    assert ("task 1/5 [laptop], epoch 1/7" in shown) == ("0 of 2 runs" in shown) == terminal
    assert all(text in shown for text in ("1/2", "2/2", "out of memory"))
    assert watch.failed == [Outcome(hat, "out of\nmemory")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert time_in_words(seconds) == text


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=[pytest.mark.full])])
def test_an_interrupted_sweep_goes_on(number: signal.Signals, tiny: str, tmp_path: Path) -> None:
    argv = ["sweep", "--strategy", "ncl", "--model", tiny, "--tasks", "2", "--train-size", "64", "--epochs", "12"]
    argv += ["--set", "adapter_size=8", "--out", str(tmp_path), "--device", "cpu"]
    command = [sys.executable, "-m", "nlpcl", *argv]
    # What a shell starts in the background ignores SIGINT, and so does all that it starts.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heeds)
    wait_for(lambda: any("epoch 3/12" in log.read_text() for log in tmp_path.glob("*/log.txt")), process)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"checkpoint" in error
    (run,) = tmp_path.iterdir()
    assert not (run / "record.json").exists() and list((run / "checkpoints").iterdir())
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r"\b1\D+0\D+1\D", done.stdout)
    assert Record.load(run / "record.json").measured.resumed == 1
