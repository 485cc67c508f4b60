"""Tuning: what is searched, that test data are never seen, studies that go on, presets in files."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.config.arguments import Request
from nlpcl.config.presets import PresetFile
from nlpcl.config.spec import RunSpec
from nlpcl.errors import UsageError
from nlpcl.records.metrics import average
from nlpcl.registry import benchmarks
from nlpcl.runs import run as experiment
from nlpcl.runs.fit import fit
from nlpcl.sweeps import study, tune
from nlpcl.sweeps.tune import Axis, Search, Trial
from nlpcl.training.device import choose_device
from tests.helpers.messages import mentions, refused

FIELDS = {"tasks": "2", "train_size": "16", "epochs": "1"}


def search_of(tiny: str, *assign: str, on: tune.On = "first-task", **fields: str) -> Search:
    size = () if any(pair.startswith("adapter_size") for pair in assign) else ("adapter_size=8",)
    return Search.asked(Request({**FIELDS, "model": tiny, "strategy": "hat", **fields}, (*size, *assign)), on)


def test_what_is_searched(tiny: str) -> None:
    assign = ("dropout=0.2", "lamb=0.1..10:log", "smax=100..400", "pooling=mean,cls", "adapter_size=4..64:log")
    search = search_of(tiny, *assign)
    assert search.fixed.assign == ("dropout=0.2",)
    lamb, smax, pooling, size = search.axes
    assert lamb == Axis("lamb", 0.1, 10.0, log=True) and smax == Axis("smax", 100.0, 400.0)
    assert isinstance(smax.low, float) and isinstance(size.low, int)  # whole numbers where the option holds them
    assert pooling == Axis("pooling", choices=("mean", "cls"))
    spec = search.request(["0.5", "200.0", "cls", "5"]).spec()
    assert spec.options is not None and (spec.options["lamb"], spec.options["smax"]) == (0.5, 200.0)
    assert spec.backbone_options is not None and spec.backbone_options["adapter_size"] == 5


def test_without_a_range_the_learning_rate_is_searched_around_its_preset(tiny: str) -> None:
    usual = search_of(tiny).fixed.spec().learning_rate
    assert usual is not None
    (axis,) = search_of(tiny).axes
    assert axis.name == "learning_rate" and axis.log
    assert (axis.low, axis.high) == pytest.approx((usual / 10, usual * 10))
    assert search_of(tiny).usual() == {"learning_rate": usual}


@pytest.mark.parametrize(
    ("assign", "usual"),
    [
        (("lamb=0.1..10:log", "adapter_size=32,2000"), {"lamb": 0.75, "adapter_size": "2000"}),
        (("lamb=0.1..10:log", "adapter_size=32,64"), {"lamb": 0.75}),
        (("lamb=0.5,7.5e-1",), {"lamb": "7.5e-1"}),
        (("lamb=1..2",), {}),
        (("parity=true,false",), {"parity": "false"}),
    ],
)
def test_what_a_run_has_without_a_search(assign: tuple[str, ...], usual: dict[str, Any], tiny: str) -> None:
    assert search_of(tiny, *assign).usual() == usual


@pytest.mark.parametrize(
    ("assign", "words"),
    [
        ("lamda=0.1..1", "lamda lamb"),
        ("lamb=1..10 lamb=2..5", "lamb twice"),
        ("lamb=1..2 lamb=7", "lamb twice"),
        ("lamb=1..0.1", "--set 1.0..0.1"),
        ("lamb=0..1:log", "--set :log"),
        ("lamb=a..b", "lamb a"),
        ("inference=last..entropy", "inference"),
        ("warmup=0.5..2", "warmup 0 1 2"),
        ("learning_rate=0.1", "search"),
    ],
)
def test_a_search_that_is_none_is_refused(assign: str, words: str, capsys: Any, tmp_path: Path) -> None:
    argv = ["tune", "--strategy", "hat", "--out", str(tmp_path / "p"), "--study", str(tmp_path / "s")]
    assert main([*argv, *(part for pair in assign.split() for part in ("--set", pair))]) == 2
    shown = capsys.readouterr()
    assert mentions(shown.err, words) and shown.err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_or_prepared_is_told_before_a_trial(capsys: Any, tmp_path: Path) -> None:
    argv = ["tune", "--study", str(tmp_path / "study.db"), "--set", "lamb=0.1..1", "--strategy", "hat"]
    assert main([*argv, "--out", str(tmp_path)]) == 2
    assert mentions(capsys.readouterr().err, str(tmp_path)) and list(tmp_path.iterdir()) == []
    argv += ["--out", str(tmp_path / "preset.json"), "--benchmark", "folder", "--data-root", str(tmp_path / "nowhere")]
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert "nowhere" in shown and shown.count("\n") == 1 and "trial" not in shown


class Forbidden:
    """A stream that may not be touched."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("test data were touched")

    def __len__(self) -> int:
        raise AssertionError("test data were touched")

    def __iter__(self) -> Any:
        raise AssertionError("test data were touched")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("test data were touched")


@pytest.fixture
def guarded() -> Iterator[None]:
    """The benchmark `folder`, in which neither the test stream nor an example or a tokenised text of it can be read."""
    entry = benchmarks.get("folder")

    def make(*args: Any, **kwargs: Any) -> Any:
        benchmark = entry.target(*args, **kwargs)
        for experience in benchmark.test_stream:
            experience._dataset = Forbidden()
        benchmark.test_stream = benchmark._streams["test"] = Forbidden()
        benchmark.packed["test"] = Forbidden()
        return benchmark

    with benchmarks.replacing(replace(entry, target=make)):
        yield


@pytest.mark.parametrize("on", ["first-task", "stream"])
@pytest.mark.parametrize(
    ("strategy", "backbone", "option"),
    [
        *((name, "bert_adapter", "adapter_size=8") for name in ("ncl", "one", "mtl", "ctr", "derpp")),
        ("avalanche/Replay", "bert_adapter", "adapter_size=8"),
        ("ncl", "bert_frozen", "filters=4"),
    ],
)
@pytest.mark.usefixtures("guarded")
def test_test_data_are_never_touched(
    strategy: str, backbone: str, option: str, on: Any, tiny: str, folders: dict[str, Path]
) -> None:
    fields = {"benchmark": "folder", "strategy": strategy, "backbone": backbone, "model": tiny, "epochs": "1"}
    fields["max_length"] = "32"
    request = Request(fields, (option,))
    spec = request.spec()
    if spec.options is not None and "memory_share" in spec.options:
        spec = replace(request, assign=(option, "memory_share=0.25")).spec()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accuracy = tune.score(spec, on, data_root=str(folders["til"]), device="cpu")
    assert 0 <= accuracy <= 1
    device = choose_device("cpu")
    with pytest.raises(AssertionError, match="test data"):
        benchmark, _ = experiment.setup(spec, data_root=folders["til"], device=device)
        len(benchmark.test_stream)  # type: ignore[attr-defined]


def test_the_score_is_that_of_a_run_on_validation_data(tiny: str) -> None:
    """Of the first task after it, and of all in the end, with another driver: by hand, over the whole benchmark."""
    spec = Request({**FIELDS, "epochs": "2", "model": tiny, "strategy": "ncl"}, ("adapter_size=8",)).spec()
    device = choose_device("cpu")
    benchmark, strategy = experiment.setup(spec, device=device, eval_batch_size=128)
    matrix = fit(strategy, benchmark, eval="seen", stream="valid", epochs=[2, 2]).accuracy
    assert tune.score(spec, "first-task", device="cpu") == matrix[0][0]
    assert tune.score(spec, "stream", device="cpu") == average(matrix)


def peak(spec: RunSpec, on: str, **where: Any) -> float:
    """A score without a run: best at lamb = 1; too large a lamb fails."""
    assert spec.options is not None
    if spec.options["lamb"] > 5:
        raise UsageError("the loss is not finite.")
    return 1 - abs(spec.options["lamb"] - 1) / 10


def test_a_study_goes_on_and_finds_the_peak(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "score", peak)
    search, told = search_of(tiny, "lamb=0.1..10:log"), list[Trial]()
    file = tmp_path / "study.db"
    tune.tune(search, file, 5, told.append)
    best = tune.tune(search, file, 30, told.append)
    assert [trial.number for trial in told] == list(range(1, 31))
    assert len({trial.texts for trial in told}) == 30  # a study that goes on does not draw the same again
    assert told[0].texts == ("0.75",)  # the first trial is what a run has without a search
    failed = [trial for trial in told if trial.accuracy is None]
    assert failed and all(float(trial.texts[0]) > 5 and trial.error is not None for trial in failed)
    good = {trial.texts: trial.accuracy for trial in told if trial.accuracy is not None}
    assert (good[best.texts], best.accuracy, best.trials) == (max(good.values()), max(good.values()), len(good))
    assert best.accuracy > 1 - abs(0.75 - 1) / 10
    again = tune.tune(search, file, 30, told.append)
    assert again == best and len(told) == 30
    other = search_of(tiny, "lamb=0.1..9:log")
    assert other.name != search.name and search_of(tiny, "lamb=0.1..10:log", on="stream").name != search.name
    tune.tune(other, file, 2, told.append)
    assert [trial.number for trial in told[30:]] == [1, 2]


def test_a_trial_in_which_the_process_died_is_made_up_for(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*args: Any, **where: Any) -> float:
        raise KeyboardInterrupt

    search, told = search_of(tiny, "lamb=0.1..4", "adapter_size=8,2000"), list[Trial]()
    monkeypatch.setattr(tune, "score", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune.tune(search, tmp_path / "study.db", 3, told.append)
    monkeypatch.setattr(tune, "score", peak)
    assert tune.tune(search, tmp_path / "study.db", 3, told.append).trials == 3
    assert [trial.number for trial in told] == [1, 2, 3]
    usual = ("0.75", "2000")
    assert [trial.texts == usual for trial in told] == [True, False, False]  # what a run has without a search, once
    tune.tune(search, tmp_path / "study.db", 4, told.append)
    assert told[3].texts != usual


def test_studies_that_are_of_no_use(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "score", peak)
    with refused("trial finite"):
        tune.tune(search_of(tiny, "lamb=6..10"), tmp_path / "study.db", 2, lambda trial: None)
    (tmp_path / "text").write_text("no database, " * 1000)
    os.mkfifo(tmp_path / "pipe")
    before = {*tmp_path.iterdir()}
    for file in (tmp_path / "text", tmp_path / "nowhere" / "study.db", tmp_path / "pipe", tmp_path):
        with refused("--study"):
            tune.tune(search_of(tiny, "lamb=0.1..1"), file, 2, lambda trial: None)
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["a?b.db", "a#b%41&c.db", "{x}.db", ":memory:", "ä b.db"])
def test_a_study_lies_where_it_is_named(name: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "score", peak)
    monkeypatch.chdir(tmp_path)
    for trials in (1, 2):
        assert tune.tune(search_of(tiny, "lamb=0.1..1"), Path(name), trials, lambda trial: None).trials == trials
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("seconds", [0.3, 5])
def test_a_study_that_another_program_has_locked(
    seconds: float, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, but not for ever."""
    monkeypatch.setattr(study, "STUDY_SECONDS", 2)
    file, ended = tmp_path / "study.db", threading.Event()

    def locks(spec: RunSpec, on: str, **where: Any) -> float:
        locked = threading.Event()

        def hold() -> None:
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                locked.set()
                ended.wait(seconds)

        threading.Thread(target=hold).start()
        assert locked.wait(10)
        return peak(spec, on)

    monkeypatch.setattr(tune, "score", locks)
    search = search_of(tiny, "lamb=0.1..1")
    if seconds < 2:
        assert tune.tune(search, file, 1, lambda trial: None).trials == 1
    else:
        with refused("study.db locked"):
            tune.tune(search, file, 1, lambda trial: None)
    ended.set()


def test_two_searches_share_a_study(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They start at once on a new file, draw no values twice and make no trial too many."""
    monkeypatch.setattr(study, "POLL", 0.01)
    both = threading.Barrier(2)

    def together(spec: RunSpec, on: str, **where: Any) -> float:
        with suppress(threading.BrokenBarrierError):  # the other has ended, or waits for this one
            both.wait(0.3)
        return peak(spec, on)

    monkeypatch.setattr(tune, "score", together)
    search, told = search_of(tiny, "lamb=0.1..4"), list[Trial]()

    def work(_: int) -> tune.Best:
        return tune.tune(search, tmp_path / "study.db", 5, told.append)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))
    assert first == second and first.trials == len(told) == len({trial.texts for trial in told}) == 5
    assert sorted(trial.number for trial in told) == [1, 2, 3, 4, 5]
    assert [file.name for file in tmp_path.iterdir()] == ["study.db"]


def test_a_search_waits_for_the_last_trial_of_another_and_makes_up_for_it(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "POLL", 0.01)
    search, told = search_of(tiny, "lamb=0.1..4"), list[Trial]()
    begun, dies = threading.Event(), threading.Event()

    def slow(spec: RunSpec, on: str, **where: Any) -> float:
        if begun.is_set():
            return peak(spec, on)
        begun.set()
        assert dies.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "score", slow)

    def work(_: int) -> tune.Best:
        return tune.tune(search, tmp_path / "study.db", 1, told.append)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(work, 0)
        assert begun.wait(10)
        second = pool.submit(work, 1)
        assert not wait([second], 0.3).done
        dies.set()
        assert second.result(10).trials == 1 and len(told) == 1
        with pytest.raises(KeyboardInterrupt):
            first.result(10)


def test_from_tuning_to_runs(tiny: str, tmp_path: Path, capsys: Any) -> None:
    """The preset that is written goes to the run, the method and the sweep that it fits, and to no other."""
    fields = ["--model", tiny, "--tasks", "2", "--train-size", "16", "--epochs", "1"]
    preset = tmp_path / "preset.json"
    argv = [*fields, "--strategy", "hat", "--set", "lamb=0.1..2:log", "--set", "adapter_size=8,16", "--trials", "3"]
    argv += ["--study", str(tmp_path / "study.db"), "--out", str(preset), "--on", "stream", "--device", "cpu"]
    assert main(["tune", *argv]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == f"preset: {preset}" and shown.err.count("trial ") == 3
    values = PresetFile.load(preset).values

    def spec_of(*argv: str) -> dict[str, Any]:
        assert main(["run", *fields, *argv, "--preset", str(preset), "--dry-run", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["spec"]

    spec = spec_of("--strategy", "hat", "--seed", "3")
    assert spec["options"]["lamb"] == values["options"]["lamb"]
    assert spec["backbone_options"]["adapter_size"] == values["backbone_options"]["adapter_size"]
    assert spec_of("--strategy", "hat", "--set", "lamb=7")["options"]["lamb"] == 7  # what is given wins
    assert main(["run", *fields, "--strategy", "ncl", "--preset", str(preset)]) == 2
    assert mentions(capsys.readouterr().err, "preset.json hat ncl")
    assert main(["sweep", *fields, "--strategy", "ncl,hat", "--preset", str(preset), "--print"]) == 0
    ncl, hat = capsys.readouterr().out.splitlines()
    assert "--preset" not in ncl and f"--preset {preset}" in hat
    assert main(["sweep", *fields, "--strategy", "ncl", "--preset", str(preset), "--print"]) == 2
    assert mentions(capsys.readouterr().err, "preset.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "preset.json"),
        ({"values": {"epochs": 3}}, "when"),
        ({"when": {}, "values": {}}, "values"),
        ({"when": {"strategi": "hat"}, "values": {"epochs": 3}}, "strategi strategy"),
        ({"when": {}, "values": {"epoch": 3}}, "epoch epochs"),
        ({"when": {}, "values": {"epochs": "three"}}, "epochs three"),
        ({"when": {}, "values": {"options": {"lamda": 3}}}, "lamda lamb"),
    ],
)
def test_a_file_that_is_no_preset(content: Any, words: str, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "preset.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert main(["run", "--strategy", "hat", "--preset", str(file), "--dry-run"]) == 2
    assert mentions(capsys.readouterr().err, words)
