"""The command line, from flags to the record it names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.records.record import Record
from tests.helpers.messages import mentions

QUICK = ["--tasks", "2", "--train-size", "16", "--epochs", "1", "--set", "adapter_size=8"]


def test_help_and_import_load_no_torch() -> None:
    code = (
        "import sys, nlpcl, nlpcl.cli; assert nlpcl.cli.main(['--help']) == 0; "
        "assert all(nlpcl.cli.main([name, '--help']) == 0 for name in ('run', 'sweep', 'tune')); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_writes_a_record_that_repeats_itself(tiny: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    argv = ["run", "--benchmark", "demo", "--strategy", "hat", "--model", tiny, *QUICK, "--out", str(out), "--plot"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    last = shown.out.strip().splitlines()[-1]
    path = Path(last.removeprefix("record: "))
    first = Record.load(path)
    assert path == out / first.id / "record.json"
    assert path.with_name("matrix.png").read_bytes()[:4] == b"\x89PNG"
    assert "average accuracy" in shown.out
    assert "epoch 1/1" in shown.err
    assert main(["run", "--from", str(path), "--out", str(tmp_path / "again"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    again = Record.load(answer["record"])
    assert answer["id"] == again.id == first.id
    for field in ("spec", "data", "sizes", "matrices", "seeds"):
        assert getattr(first, field) == getattr(again, field), field


def test_the_original_toolkits_command_line(capsys: Any) -> None:
    line = (
        "run --bert_model bert-base-uncased --backbone bert_adapter --baseline ctr --task asc --eval_batch_size 128 "
        "--train_batch_size 32 --scenario til_classification --idrandom 3 --use_predefine_args --dry-run --json"
    )
    assert main(line.split()) == 0
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert (spec["benchmark"], spec["strategy"], spec["order"], spec["scenario"]) == ("asc", "ctr", 3, "til")
    assert (spec["model"], spec["train_batch_size"]) == ("bert-base-uncased", 32)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rum", "rum run"),
        ("run --modle minilm", "--modle"),
        ("run --strategy hatt", "hatt hat"),
        ("run --scenario tli", "scenario tli til"),
        ("run --order 99", "order 0 4"),
        ("run --order laptop,hotle", "hotle hotel"),
        ("run --order 9 --dry-run", "order 0 4"),
        ("run --order= --dry-run", "order task"),
        ("sweep --order laptop,nope --print", "nope hotel"),
        ("run --tasks 7", "tasks 1 5"),
        ("run --set lamb", "--set lamb"),
        ("run --set lamda=1", "lamda lamb"),
        ("run --set lamb=much", "lamb 0 1e+12 much"),
        ("run --set lamb=NaN", "lamb 0 1e+12 NaN"),
        ("run --set lamb=-1", "lamb 0 1e+12 -1"),
        ("run --set dropout=2", "dropout 0 1 2"),
        ("run --set pooling=max", "pooling mean cls pooler max"),
        ("run --set warmup=7", "warmup 0 1 7"),
        ("run --order=--5", "--5 hotel"),
        ("run --learning-rate 1e38", "learning_rate 1e38 0 1,000"),
        ("run --order ²", "² hotel"),
        ("run --epochs task0=0,*=1", "epochs task0 1 1,000,000"),
        ("run --epochs hotle=3,*=1", "hotle hotel"),
        ("run --epochs three", "epochs three"),
        ("run --from nowhere.json", "nowhere.json"),
        ("run --from nowhere.json --seed 3", "--from --seed"),
        ("run --benchmark asc --data-root nowhere", "--data-root nowhere"),
        ("run --device quantum", "device quantum auto cpu cuda"),
        ("run --device cudaa", "device cudaa cuda"),
        ("run --device meta", "device meta cpu"),
        ("run --device hpu", "device hpu cpu"),
        ("run --device cuda:99", "cuda:99 cpu"),
        ("run --device mps", "mps cpu"),
        ("run --model no/such", "no/such minilm"),
        ("info hatt", "hatt hat"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(line: str, words: str, capsys: Any, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "runs")] if line.startswith("run ") else []
    assert main([*line.split(), *out]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("nlpcl: error: ") and shown.err.count("\n") == 1
    assert mentions(shown.err, words)
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_cannot_be_written_is_refused_before_training(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["run", "--out", str(tmp_path / "file")]) == 2
    assert mentions(capsys.readouterr().err, "--out")


def test_brackets_are_shown_as_they_are(capsys: Any) -> None:
    assert main(["run", "--out", "[/a]", "--dry-run"]) == 0
    assert "[/a]" in capsys.readouterr().out
    assert main(["info", "bert_adapter"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Literal[" not in shown and "whole number" in shown


def test_no_arguments_show_the_help(capsys: Any) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert "Usage" in shown.out + shown.err and "nlpcl: error" not in shown.err


def test_list_and_info(capsys: Any) -> None:
    assert main(["list", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    names = {entry["name"] for entry in content["strategies"]}
    assert {"ncl", "one", "mtl", "hat", "ctr", "avalanche/LwF"} <= names
    assert {entry["name"] for entry in content["benchmarks"]} >= {"asc", "demo", "dsc", "femnist", "SplitMNIST"}
    assert main(["list"]) == 0
    assert "bert_adapter" in capsys.readouterr().out
    for name in ("ctr", "avalanche/LwF", "asc", "bert_adapter"):
        assert main(["info", name]) == 0
    assert "temperature" in capsys.readouterr().out
