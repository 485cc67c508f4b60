"""Processes of one run that differ, die or do not come together."""

from __future__ import annotations

import json
import os
import shutil
import socket
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from nlpcl.cli import main
from nlpcl.errors import UsageError
from nlpcl.training import distributed
from nlpcl.training.launch import VARIABLES
from tests.helpers.messages import mentions, refused
from tests.helpers.processes import free_port, run_two

LINE = ["run", "--benchmark", "folder", "--device", "cpu", "--max-length", "32", "--epochs", "1"]


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("--seed 1", "--seed 2", "rank 1 seed 2 0"),
        ("--strategy ncl", "--strategy hat", "strategy hat ncl"),
        ("--set warmup=0.1", "--set warmup=0.2", "warmup 0.1 0.2"),
        ("--set adapter_size=8", "", "adapter_size 8"),
        ("", "--eval-batch-size 7", "eval_batch_size 7 128"),
        ("", "--fresh", "fresh True False"),
        ("--data-root til", "--data-root dil", "data_sha256"),
        ("--model one", "--model other", "model_sha256"),
    ],
)
def test_processes_that_differ_are_refused(
    one: str, other: str, words: str, processes: Any, encoders: dict[str, str], folders: dict[str, Path], tmp_path: Path
) -> None:
    """With what differs, by every process, before anything is trained or written."""
    places = {"til": str(folders["til"]), "dil": str(folders["dil"]), "one": encoders["bert"]}
    places["other"] = str(shutil.copytree(encoders["bert"], tmp_path / "other"))
    config = Path(places["other"]) / "config.json"
    config.write_text(config.read_text() + " ")
    usual = {"--data-root": "til", "--model": "one", "--out": str(tmp_path / "runs")}
    both = []
    for text in (one, other):
        argv = [places.get(word, word) for word in text.split()]
        more = [part for flag, value in usual.items() if flag not in argv for part in (flag, places.get(value, value))]
        both.append([*LINE, *more, *argv])
    codes, said = run_two(processes, both, tmp_path)
    assert codes == [2, 2]
    assert said[0].startswith("nlpcl: error: ") and said[0].count("\n") == 1 and mentions(said[0], words)
    assert not (tmp_path / "runs").exists()


FACTS: list[list[dict[str, Any]]] = [
    [{"seed": 1, "torch": "2"}, {"seed": 1}, {"order": "a" * 5000, "x": "\udcff"}],
    [{"seed": 1, "torch": "3"}, {"seed": 1}, {"order": "a" * 4999 + "b"}],
]


def differing(rank: int, port: int, said: Path) -> None:
    """A process in a group of a user's own."""
    torch.set_num_threads(1)
    store = dist.TCPStore("localhost", port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = []
    for facts in FACTS[rank]:
        try:
            distributed.check_alike(facts)
        except UsageError as error:
            found.append(str(error))
    (said / f"found{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_what_differs_is_found_by_every_process_alike(processes: Any, tmp_path: Path) -> None:
    port = free_port()
    both = [processes.Process(target=differing, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    first, second = (json.loads((tmp_path / f"found{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and len(first) == 2
    assert mentions(first[0], "rank 1 torch 3 0 2") and mentions(first[1], "order") and len(first[1]) < 400


GOOD = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        *(({name: value}, name) for name in GOOD for value in ("", " ", "\x1b[31m", "x" * 5000)),
        *(
            ({name: value}, name)
            for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
            for value in ("-1", "1.0", "9" * 400, "٣", "0x1", "1_0", "nan")
        ),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"RANK": "2"}, "RANK"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT"),
        ({"MASTER_PORT": ""}, "MASTER_PORT"),
        ({"WORLD_SIZE": "1"}, "RANK"),
        ({"RANK": None}, "RANK WORLD_SIZE"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "MASTER_ADDR MASTER_PORT WORLD_SIZE"),
        ({"NLPCL_START_SECONDS": "soon"}, "NLPCL_START_SECONDS soon"),
        ({"NLPCL_START_SECONDS": "0"}, "NLPCL_START_SECONDS 0"),
    ],
)
def test_a_senseless_environment_is_refused(
    variables: dict[str, str | None],
    words: str,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    for name, value in {**GOOD, "MASTER_PORT": "29500", **variables}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    argv = ["run", "--model", tiny, "--tasks", "1", "--device", "cpu", "--out", str(tmp_path / "runs")]
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and mentions(shown.err, words)
    assert len(shown.err) < 400 and shown.err.rstrip("\n").isprintable() and not (tmp_path / "runs").exists()


def test_other_commands_need_no_sound_environment(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    assert main(["list"]) == 0
    assert main(["list", "--nothing"]) == 2
    assert mentions(capsys.readouterr().err, "--nothing")


@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_commands_that_are_one_process(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in {**GOOD, "MASTER_PORT": "29500", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main([command]) == 2
    assert mentions(capsys.readouterr().err, f"{command} torchrun")


def alone(rank: int, variables: dict[str, str], said: Path) -> None:
    """The command line in a process whose peers are not there."""
    torch.set_num_threads(1)
    os.environ.update(variables)
    argv = ["run", "--tasks", "1", "--train-size", "16", "--epochs", "1", "--set", "adapter_size=8", "--device", "cpu"]
    argv += ["--model", variables["tiny"], "--out", str(said / "runs")]
    with (said / f"said{rank}").open("w") as file, redirect_stdout(file), redirect_stderr(file):
        code = main(argv)
    raise SystemExit(code)


@pytest.mark.parametrize(
    ("ranks", "variables", "words"),
    [
        ("0", {}, "0 2"),  # the other was never started
        ("1", {}, "1 2"),
        ("1", {"MASTER_ADDR": "nowhere.invalid"}, "nowhere.invalid"),
        ("01", {"taken": ""}, "1 2 answer"),
        ("00", {}, "0 2"),
        ("011", {}, "RANK 1"),
    ],
)
def test_processes_that_do_not_come_together_end_soon(
    ranks: str, variables: dict[str, str], words: str, processes: Any, tiny: str, tmp_path: Path
) -> None:
    port = free_port()
    with socket.socket() as taken:
        if "taken" in variables:
            taken.bind(("localhost", port))
            taken.listen()
        started = []
        for rank in ranks:
            own = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": str(port), "NLPCL_START_SECONDS": "3"}
            given = {**GOOD, **own, "tiny": tiny, "TORCH_CPP_LOG_LEVEL": "FATAL", **variables}
            started.append(processes.Process(target=alone, args=(len(started), given, tmp_path)))
        for process in started:
            process.start()
        for process in started:
            process.join(60)
    said = [(tmp_path / f"said{i}").read_text() for i in range(len(ranks))]
    assert 2 in [process.exitcode for process in started] and {process.exitcode for process in started} <= {0, 2}
    errors = [text for text in said if "nlpcl: error: " in text]
    assert errors and any(mentions(text, words) for text in errors)
    assert all(text.count("\n") == 1 and len(text) < 400 for text in errors)


@pytest.mark.parametrize(("device", "words"), [("cuda:0", "cuda:0"), ("cuda", "999")])
def test_each_process_has_a_gpu_or_is_refused(device: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "999")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "999")
    with refused(words), distributed.process_group(device):
        pass
