"""`nlpcl leaderboard add` and `check`: what is filed where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.config.spec import RunSpec
from nlpcl.leaderboard import submit
from nlpcl.leaderboard.claims import measured
from nlpcl.leaderboard.submit import check, checked, place_of
from nlpcl.records.record import Record
from nlpcl.registry import benchmarks
from nlpcl.runs import run as experiment
from tests.helpers.messages import mentions, refused
from tests.helpers.records import TASKS, flat, record_of, triangle

FULL = [[0.5] * 3] * 3
DIAGONAL = [[0.5 if i == j else None for j in range(3)] for i in range(3)]
LAST = [[None] * 3, [None] * 3, [0.5] * 3]


def saved(folder: Path, *given: Any, **changes: Any) -> Path:
    path = folder / "record.json"
    record_of(*given, **changes).save(path)
    return path


def add(path: Path, results: Path, **more: Any) -> tuple[Path, bool]:
    (filed,) = submit.add([path], results, **more)
    return filed


def both(matrix: Any, **more: Any) -> dict[str, Any]:
    return {"accuracy": matrix, "macro_f1": matrix, **more}


def test_a_record_is_filed_after_its_spec(tmp_path: Path) -> None:
    path = saved(tmp_path, "hat", 0, 1, 0.7)
    record = Record.load(path)
    target, new = add(path, tmp_path / "results")
    assert new and target == tmp_path / "results/demo/til/bert_adapter/hat" / f"{record.id}.json"
    assert target.read_bytes() == path.read_bytes() and path.exists()
    assert add(path, tmp_path / "results") == (target, False)
    assert check(tmp_path / "results") == (1, [])


def test_another_result_of_the_same_spec_needs_replace(tmp_path: Path) -> None:
    results = tmp_path / "results"
    target, _ = add(saved(tmp_path, matrix=0.5), results)
    before = target.read_bytes()
    again = saved(tmp_path, matrix=0.6, measured={"processes": 2})
    with refused("matrices.accuracy 0.5 0.6 --replace"):
        add(again, results)
    assert target.read_bytes() == before
    assert add(again, results, replace=True) == (target, True)
    assert Record.load(target).matrices.accuracy == flat(0.6)


def test_avalanches_own_have_a_folder_of_their_own(tmp_path: Path) -> None:
    target, _ = add(saved(tmp_path, "avalanche/LwF"), tmp_path / "results")
    assert target.parent == tmp_path / "results/demo/til/bert_adapter/avalanche/LwF"
    assert check(tmp_path / "results") == (1, [])


@pytest.mark.parametrize(
    ("strategy", "evaluate", "matrices"),
    [
        ("ncl", "seen", both(flat(0.5))),
        ("ncl", "final", both(LAST)),
        ("ncl", "full", both(FULL, initial=[0.5] * 3)),
        ("one", "seen", both(DIAGONAL)),
        ("one", "full", both(DIAGONAL)),
        ("mtl", "seen", both(LAST)),
    ],
)
def test_the_cells_that_a_run_measures(tmp_path: Path, strategy: str, evaluate: str, matrices: dict[str, Any]) -> None:
    assert checked(saved(tmp_path, strategy, spec={"eval": evaluate}, matrices=matrices)).matrices.initial == (
        matrices.get("initial")
    )
    for name in ("accuracy", "macro_f1"):
        for i, j in ((2, 2), (0, 1), (2, 0)):
            wrong = [list(row) for row in matrices[name]]
            wrong[i][j] = 0.5 if wrong[i][j] is None else None
            path = saved(tmp_path, strategy, spec={"eval": evaluate}, matrices={**matrices, name: wrong})
            with refused(f"{name} {j + 1} {i + 1} --eval"):
                checked(path)
    initial = None if matrices.get("initial") else [0.5] * 3
    path = saved(tmp_path, strategy, spec={"eval": evaluate}, matrices={**matrices, "initial": initial})
    with refused("initial --eval"):
        checked(path)


@pytest.mark.parametrize(
    ("strategy", "evaluate"), [("ncl", "full"), ("one", "seen"), ("mtl", "seen"), ("ncl", "final")]
)
def test_what_a_real_run_writes_is_accepted(tmp_path: Path, tiny: str, strategy: str, evaluate: str) -> None:
    spec = RunSpec.parse(
        {"strategy": strategy, "model": tiny, "tasks": 2, "train_size": 8, "epochs": 1, "eval": evaluate,
         "backbone_options": {"adapter_size": 4}}
    )  # fmt: skip
    record = experiment.run(spec, out=tmp_path, device="cpu")
    path = tmp_path / record.id / "record.json"
    with refused("model machine"):  # the tiny encoder is a folder of this machine
        checked(path)
    unnamed = {name: value for name, value in record.spec.items() if name not in ("model", "model_sha256")}
    encoder = {**record.data["encoder"], "name": "tiny"}
    changes = {"spec": {**unnamed, "model": "tiny", "spec_version": 1}, "data": {**record.data, "encoder": encoder}}
    named = record.model_copy(update=changes)
    named.save(path)
    assert place_of(checked(path)) == Path("demo/til/bert_adapter", strategy, f"{named.id}.json")


def of_asc() -> dict[str, Any]:
    names = ("XuSemEval14_laptop", "XuSemEval14_rest", "Bing9domains_HitachiRouter")  # of order 0
    known = benchmarks.get("asc").known
    assert known is not None
    data = known(names)
    tasks = [
        {"name": name, "labels": list(labels), "train": 20, "valid": sizes[1], "test": sizes[2]}
        for name, (labels, sizes) in zip(names, data.tasks, strict=True)
    ]
    return {"tasks": tasks, "files": dict(data.files), "encoder": record_of().data["encoder"]}


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("failed memory", {"status": "failed", "error": "out of memory"}),
    ("spec_version", {"spec": {"spec_version": None}}),
    ("epochs", {"spec": {"epochs": None}}),
    ("more", {"spec": {"more": 1}}),
    ("99", {"spec": {"spec_version": 99}}),
    ("id", {"spec": {"learning_rate": "0.005"}}),
    ("strategy toyy", {"spec": {"strategy": "toyy"}}),
    ("strategy DER++ derpp", {"spec": {"strategy": "DER++"}}),
    ("strategy ../../ncl", {"spec": {"strategy": "../../ncl"}}),
    ("benchmark /etc", {"spec": {"benchmark": "/etc"}}),
    ("backbone ..", {"spec": {"backbone": ".."}}),
    ("backbone bert_adapter/..", {"spec": {"backbone": "bert_adapter/.."}}),
    ("scenario ../til", {"spec": {"scenario": "../til"}}),
    ("demo class-incremental", {"spec": {"scenario": "cil"}}),
    ("demo cnn --backbone", {"spec": {"backbone": "cnn"}}),
    ("model /home/someone/bert", {"spec": {"model": "/home/someone/bert"}}),
    ("model machine", {"spec": {"model": "C:\\bert"}}),
    ("model ../bert", {"spec": {"model": "../bert"}}),
    ("versions.nlpcl U+0000", {"versions": {"nlpcl": "0\x00"}}),
    ("spec.model U+202E", {"spec": {"model": "mini\u202elm"}}),
    ("data.files U+000A", {"data": {**record_of().data, "files": {"a\nb": "00"}}}),
    ("versions.nlpcl 1000", {"versions": {"nlpcl": "0" * 1001}}),
    ("data.tasks required", {"data": {}}),
    ("data.tasks 3", {"data": {"tasks": record_of().data["tasks"][:2]}}),
    ("data.tasks 3", {"data": {"tasks": [record_of().data["tasks"][0]] * 3}}),
    ("data.tasks.0.name", {"data": {"tasks": [{"labels": ["a"], "train": 1, "valid": 1, "test": 1}]}}),
    ("data.tasks.0.name", {"data": {"tasks": [{**record_of().data["tasks"][0], "name": "a" * 101}]}}),
    ("data.tasks.0.test", {"data": {"tasks": [{**record_of().data["tasks"][0], "test": 0}]}}),
    ("data.tasks list", {"data": {"tasks": "abc"}}),
    ("data.tasks list", {"data": {"tasks": 3}}),
    ("tasks hotel", {"spec": {"tasks": 2}}),
    ("tasks camera", {"spec": {"tasks": ["laptop", "restaurant", "camera"]}}),
    ("asks for the order", {"order": ["hotel", "laptop", "restaurant"], "data": record_of().data}),
    ("asks for the order", {"order": ["camera", *TASKS], "data": record_of().data}),
    ("order", {"order": "0"}),
    ("task ../x", {"order": "../x"}),
    ("--order 0 4 77", {"order": 77}),
    ("--order 0 4 -5", {"order": -5}),
    ("asc laptop", {"spec": {"benchmark": "asc"}}),
    (
        "order 1 Bing5domains_CanonG3",
        {"order": 1, "spec": {"benchmark": "asc"}, "data": of_asc()},
    ),
    ("spec_version 0", {"spec": {"spec_version": 0}}),
    ("spec_version -1", {"spec": {"spec_version": -1}}),
    ("ncl evil", {"spec": {"options": {"evil": 1}}}),
    ("options absent", {"spec": {"strategy": "ewc", "options": {}}}),
    ("bert_adapter nope", {"spec": {"backbone_options": {"adapter_size": 4, "nope": [1, 2]}}}),
    (
        "adapter_size four",
        {"spec": {"backbone_options": {**record_of().spec["backbone_options"], "adapter_size": "four"}}},
    ),
    ("data.files", {"data": {**record_of().data, "files": "abc"}}),
    ("data.files", {"data": {**record_of().data, "files": None}}),
    ("data.files", {"data": {**record_of().data, "files": {"a.csv": 1}}}),
    ("data.encoder", {"data": {**record_of().data, "encoder": "minilm"}}),
    ("seconds 3", {"measured": {"seconds": {"train": [1.0] * 4}}}),
    ("seconds 3", {"measured": {"seconds": {"evaluate": [1.0] * 5}}}),
    ("19 20 laptop", {"spec": {"train_size": 19}}),
    ("epochs hotel", {"spec": {"epochs": {"laptop": 1, "restaurant": 2}}}),
    ("accuracy 2", {"matrix": triangle([0.5], [0.5], [0.5, 0.5, 0.5])}),
]


@pytest.mark.parametrize(("words", "changes"), REFUSED, ids=[f"{i} {words}" for i, (words, _) in enumerate(REFUSED)])
def test_what_is_refused_is_not_filed(tmp_path: Path, capsys: Any, words: str, changes: dict[str, Any]) -> None:
    path = saved(tmp_path, **changes)
    with refused(words):
        checked(path)
    assert main(["leaderboard", "add", str(path), "--results", str(tmp_path / "results")]) == 2
    shown = capsys.readouterr().err
    assert str(path) in shown and shown.count("\n") == 1 and shown.rstrip("\n").isprintable()
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "spec", [{"options": {"evil": 1}}, {"backbone_options": {"nope": [1, 2]}}, {"strategy": "EWC"}]
)
def test_what_cannot_be_repeated_is_not_run(tmp_path: Path, capsys: Any, spec: dict[str, Any]) -> None:
    path = saved(tmp_path, spec=spec)
    assert main(["run", "--from", str(path), "--out", str(tmp_path / "runs"), "--device", "cpu"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"nlpcl: error: {path}: ") and shown.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_explicit_tasks_and_orders_are_accepted(tmp_path: Path) -> None:
    for changes in (
        {"spec": {"benchmark": "asc"}, "data": of_asc(), "matrix": 0.0},
        {"order": list(TASKS)},
        {"spec": {"tasks": list(reversed(TASKS))}},
        {"spec": {"epochs": {"hotel": 3, "*": 1}}},
        {"order": [*TASKS, "camera"], "spec": {"tasks": 3}},
    ):
        assert checked(saved(tmp_path, **changes))


@pytest.mark.parametrize(
    "content", ["", "[]", "\x00", '{"spec":' * 100_000, '{"matrices": {"accuracy": [[NaN]]}}', "[" * 5_000_000]
)
def test_what_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    with refused(str(path)):
        checked(path)
    with refused("absent.json"):
        checked(tmp_path / "absent.json")


def test_scores_that_cannot_be(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for wrong in ("1.5", "-0.1", "NaN", "1e999", '"<script>"'):
        content = path.read_text().replace("0.5", wrong, 1)
        (tmp_path / "wrong.json").write_text(content)
        with refused("wrong.json matrices.accuracy"):
            checked(tmp_path / "wrong.json")


def test_what_a_terminal_would_obey_is_not_shown(tmp_path: Path, capsys: Any) -> None:
    path = saved(tmp_path)
    path.write_text(path.read_text().replace('"status"', '"\\u001b[31mmore": 1, "status"'))
    (tmp_path / "results").mkdir()
    path.rename(tmp_path / "results" / "a.json")
    for argv in (["add", str(tmp_path / "results" / "a.json")], ["check", str(tmp_path / "results")]):
        assert main(["leaderboard", *argv]) == 2
        shown = capsys.readouterr()
        assert "31mmore" in shown.out + shown.err and "\x1b" not in shown.out + shown.err


def test_a_folder_is_checked_as_a_whole(tmp_path: Path, capsys: Any) -> None:
    results = tmp_path / "results"
    sound = [add(saved(tmp_path, "ncl", seed=seed), results)[0] for seed in range(3)]
    (results / ".gitkeep").touch()
    assert main(["leaderboard", "check", str(results)]) == 0
    assert mentions(capsys.readouterr().out, "3")
    renamed = sound[0].rename(sound[0].with_name("0123456789abcdef.json"))
    copy = results / "demo" / "til" / sound[1].name
    copy.write_bytes(sound[1].read_bytes())
    content = json.loads(sound[2].read_text())
    content["spec"]["seed"] = 7
    sound[2].write_text(json.dumps(content))
    (results / "notes.txt").write_text("x")
    (results / "link.json").symlink_to(sound[1])
    (results / "bad.json").write_text("{}")
    files, problems = check(results)
    assert (files, len(problems)) == (7, 6)
    told = "\n".join(problems)
    for path in (renamed, copy, sound[2], results / "notes.txt", results / "link.json", results / "bad.json"):
        assert str(path) in told
    assert not any(problem.startswith(str(sound[1])) for problem in problems)
    assert main(["leaderboard", "check", str(results)]) == 2
    assert mentions(capsys.readouterr().err, "6 7")
    assert main(["leaderboard", "check", str(tmp_path / "absent")]) == 2


def test_of_several_records_all_or_none_are_filed(tmp_path: Path, capsys: Any) -> None:
    good, bad = saved(tmp_path / "a"), saved(tmp_path / "b", status="failed", error="x")
    argv = ["leaderboard", "add", "--results", str(tmp_path / "results")]
    assert main([*argv, str(good), str(bad)]) == 2
    assert not (tmp_path / "results").exists()
    assert main([*argv, str(good)]) == main([*argv, str(good)]) == 0
    out, err = capsys.readouterr()
    shown = out.splitlines()
    name = place_of(Record.load(good)).name
    assert "note" not in err and name in shown[-2] and name in shown[-1] and shown[-2] != shown[-1]


def test_where_two_of_several_do_not_go_together_none_is_filed(tmp_path: Path, capsys: Any) -> None:
    results = tmp_path / "results"
    one, other = saved(tmp_path / "a", "hat"), saved(tmp_path / "b", matrix=0.5)
    contrary, names = saved(tmp_path / "c", matrix=0.6), saved(tmp_path / "d", order=list(TASKS))
    argv = ["leaderboard", "add", "--results", str(results)]
    for last, told in (
        (contrary, "matrices.accuracy"),
        (names, "same"),
    ):
        for more in ([], ["--replace"]):
            assert main([*argv, *more, str(one), str(other), str(last)]) == 2
            shown = capsys.readouterr().err
            assert mentions(shown, f"{told} {last}") and not results.exists()
    assert main([*argv, str(one), str(other), str(other)]) == 0
    assert main([*argv, str(names)]) == 2 and check(results) == (2, [])
    record = Record.load(names)
    record.save(results / place_of(record))
    (told,) = check(results)[1]
    assert mentions(told, "same")


def test_nothing_is_filed_through_a_link(tmp_path: Path) -> None:
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    elsewhere.mkdir()
    results.mkdir()
    (results / "demo").symlink_to(elsewhere)
    with refused("link"):
        add(saved(tmp_path), results)
    assert list(elsewhere.iterdir()) == []
    ((told,),) = check(results)[1:]
    assert str(results / "demo") in told


def test_what_fits_only_before_it_is_filed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    monkeypatch.setattr("nlpcl.leaderboard.submit.MOST_FILED_BYTES", path.stat().st_size)
    with refused("MiB"):
        checked(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"status": "ok"', '"status": "failed", "status": "ok"'),
        ("0.5", "0.5000001"),
        ('\n "', ' "'),
    ],
    ids=["a key twice", "not rounded", "a line less"],
)
def test_a_file_that_nlpcl_would_write_otherwise_cannot_stay(tmp_path: Path, before: str, after: str) -> None:
    target, _ = add(saved(tmp_path), tmp_path / "results")
    target.write_text(target.read_text().replace(before, after, 1))
    assert checked(target)
    ((told,),) = check(tmp_path / "results")[1:]
    assert mentions(told, str(target))


def test_a_tree_with_changes_is_told(tmp_path: Path, capsys: Any) -> None:
    for dirty in (True, False):
        path = saved(tmp_path, seed=int(dirty), measured={"git": {"commit": "ab" * 20, "dirty": dirty}})
        assert main(["leaderboard", "add", str(path), "--results", str(tmp_path / "results")]) == 0
        assert mentions(capsys.readouterr().err, "commit") == dirty


def test_cells_against_a_plain_list() -> None:
    for tasks in (1, 2, 4):
        for i in range(tasks):
            for j in range(tasks):
                end = i == tasks - 1
                assert measured(i, j, tasks, "continual", "seen") == (j in range(i + 1))
                assert measured(i, j, tasks, "continual", "full")
                assert measured(i, j, tasks, "continual", "final") == measured(i, j, tasks, "joint", "seen") == end
                assert measured(i, j, tasks, "isolated", "final") == (i == j)
