"""`nlpcl leaderboard add` and `check`: what is filed where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nlpcl import experiment
from nlpcl.cli import main
from nlpcl.errors import UsageError
from nlpcl.leaderboard.submit import add, check, checked, measured, place_of
from nlpcl.records import Record
from nlpcl.spec import RunSpec
from tests.leaderboard.generate import TASKS, flat, record_of, triangle

FULL = [[0.5] * 3] * 3
DIAGONAL = [[0.5 if i == j else None for j in range(3)] for i in range(3)]
LAST = [[None] * 3, [None] * 3, [0.5] * 3]


def saved(folder: Path, *given: Any, **changes: Any) -> Path:
    path = folder / "record.json"
    record_of(*given, **changes).save(path)
    return path


def both(matrix: Any, **more: Any) -> dict[str, Any]:
    return {"accuracy": matrix, "macro_f1": matrix, **more}


def test_a_record_is_filed_after_its_spec(tmp_path: Path) -> None:
    path = saved(tmp_path, "hat", 2, 1, 0.7)
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
    with pytest.raises(UsageError, match=r"matrices\.accuracy is .*0\.5.*would be .*0\.6.*3 fields.*--replace"):
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
            with pytest.raises(UsageError, match=f"{name} of task {j + 1} after task {i + 1} (is missing|cannot)"):
                checked(path)
    initial = None if matrices.get("initial") else [0.5] * 3
    path = saved(tmp_path, strategy, spec={"eval": evaluate}, matrices={**matrices, "initial": initial})
    with pytest.raises(UsageError, match="before the first task"):
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
    with pytest.raises(UsageError, match="model"):  # the tiny encoder is a folder of this machine
        checked(path)
    unnamed = {name: value for name, value in record.spec.items() if name not in ("model", "model_sha256")}
    named = record.model_copy(update={"spec": {**unnamed, "model": "tiny", "spec_version": 1}})
    named.save(path)
    assert place_of(checked(path)) == Path("demo/til/bert_adapter", strategy, f"{named.id}.json")


def of_asc() -> dict[str, Any]:
    names = ("XuSemEval14_laptop", "XuSemEval14_rest", "Bing9domains_HitachiRouter")  # of order 0
    tasks = record_of().data["tasks"]
    return {"tasks": [{**task, "name": name} for task, name in zip(tasks, names, strict=True)], "files": {}}


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("the run failed", {"status": "failed", "error": "out of memory"}),
    ("not complete", {"spec": {"spec_version": None}}),
    ("complete spec needs epochs", {"spec": {"epochs": None}}),
    ("no field 'more'", {"spec": {"more": 1}}),
    ("newer than", {"spec": {"spec_version": 99}}),
    ("does not repeat to the same id", {"spec": {"learning_rate": "0.005"}}),
    ("unknown strategy", {"spec": {"strategy": "toyy"}}),
    ("strategy is DER\\+\\+ and would be derpp", {"spec": {"strategy": "DER++"}}),
    ("unknown strategy", {"spec": {"strategy": "../../ncl"}}),
    ("unknown benchmark", {"spec": {"benchmark": "/etc"}}),
    ("unknown backbone", {"spec": {"backbone": ".."}}),
    ("unknown backbone", {"spec": {"backbone": "bert_adapter/.."}}),
    ("scenario cannot be", {"spec": {"scenario": "../til"}}),
    ("class-incremental", {"spec": {"scenario": "cil"}}),
    ("takes images", {"spec": {"backbone": "cnn"}}),
    ("a folder of one machine", {"spec": {"model": "/home/someone/bert"}}),
    ("a folder of one machine", {"spec": {"model": "C:\\bert"}}),
    ("a folder of one machine", {"spec": {"model": "../bert"}}),
    ("control character U\\+0000", {"versions": {"nlpcl": "0\x00"}}),
    ("control character U\\+202E", {"spec": {"model": "mini\u202elm"}}),
    ("control character U\\+000A", {"data": {**record_of().data, "files": {"a\nb": "00"}}}),
    ("longer than 1000", {"versions": {"nlpcl": "0" * 1001}}),
    (r"data\.tasks: .*list", {"data": {}}),
    ("each of the 3 tasks once", {"data": {"tasks": record_of().data["tasks"][:2]}}),
    ("each of the 3 tasks once", {"data": {"tasks": [record_of().data["tasks"][0]] * 3}}),
    (r"data\.tasks\.0\.name", {"data": {"tasks": [{"labels": ["a"], "train": 1, "valid": 1, "test": 1}]}}),
    (r"data\.tasks\.0\.name", {"data": {"tasks": [{**record_of().data["tasks"][0], "name": "a" * 101}]}}),
    (r"data\.tasks\.0\.test", {"data": {"tasks": [{**record_of().data["tasks"][0], "test": 0}]}}),
    (r"data\.tasks: .*list", {"data": {"tasks": "abc"}}),
    (r"data\.tasks: .*list", {"data": {"tasks": 3}}),
    ("asks for tasks 2", {"spec": {"tasks": 2}}),
    ("asks for tasks", {"spec": {"tasks": ["laptop", "restaurant", "hotel"]}}),
    ("asks for the order", {"order": ["camera", "laptop", "restaurant"], "data": record_of().data}),
    ("asks for the order", {"order": ["hotel", *TASKS], "data": record_of().data}),
    ("order", {"order": "0"}),
    ("asks for the order|unknown task", {"order": "../x"}),
    ("orders? .*0 to 4.*, not 77", {"order": 77}),
    ("orders? .*0 to 4.*, not -5", {"order": -5}),
    ("asc has no tasks", {"spec": {"benchmark": "asc"}}),
    (
        "asks for the order 1, with tasks .*Bing5domains_CanonG3",
        {"order": 1, "spec": {"benchmark": "asc"}, "data": of_asc()},
    ),
    ("spec_version cannot be 0", {"spec": {"spec_version": 0}}),
    ("spec_version cannot be -1", {"spec": {"spec_version": -1}}),
    ("ncl has no option 'evil'", {"spec": {"options": {"evil": 1}}}),
    (r"options\.\w+ is \(absent\) and would be", {"spec": {"strategy": "ewc", "options": {}}}),
    ("bert_adapter has no option 'nope'", {"spec": {"backbone_options": {"adapter_size": 4, "nope": [1, 2]}}}),
    (
        "adapter_size takes",
        {"spec": {"backbone_options": {**record_of().spec["backbone_options"], "adapter_size": "four"}}},
    ),
    (r"data\.files", {"data": {**record_of().data, "files": "abc"}}),
    (r"data\.files", {"data": {**record_of().data, "files": None}}),
    (r"data\.files", {"data": {**record_of().data, "files": {"a.csv": 1}}}),
    (r"data\.encoder", {"data": {**record_of().data, "encoder": "minilm"}}),
    ("seconds of more than 3 tasks", {"measured": {"seconds": {"train": [1.0] * 4}}}),
    ("seconds of more than 3 tasks", {"measured": {"seconds": {"evaluate": [1.0] * 5}}}),
    ("allows 19 training examples", {"spec": {"train_size": 19}}),
    ("no entry for task 'camera'", {"spec": {"epochs": {"laptop": 1, "restaurant": 2}}}),
    ("is missing", {"matrix": triangle([0.5], [0.5], [0.5, 0.5, 0.5])}),
]


@pytest.mark.parametrize(("told", "changes"), REFUSED, ids=[f"{i} {told}" for i, (told, _) in enumerate(REFUSED)])
def test_what_is_refused_is_not_filed(tmp_path: Path, capsys: Any, told: str, changes: dict[str, Any]) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(UsageError, match=told):
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
        {"spec": {"benchmark": "asc"}, "data": of_asc()},
        {"order": list(TASKS)},
        {"spec": {"tasks": list(reversed(TASKS))}},
        {"spec": {"tasks": None, "epochs": {"camera": 3, "*": 1}}},
        {"order": [*TASKS, "hotel"], "spec": {"tasks": 3}},
    ):
        assert checked(saved(tmp_path, **changes))


@pytest.mark.parametrize(
    "content", ["", "[]", "\x00", '{"spec":' * 100_000, '{"matrices": {"accuracy": [[NaN]]}}', "[" * 5_000_000]
)
def test_what_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="record"):
        checked(path)
    with pytest.raises(UsageError, match="cannot read"):
        checked(tmp_path / "absent.json")


def test_scores_that_cannot_be(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for wrong in ("1.5", "-0.1", "NaN", "1e999", '"<script>"'):
        content = path.read_text().replace("0.5", wrong, 1)
        (tmp_path / "wrong.json").write_text(content)
        with pytest.raises(UsageError, match="is not a record"):
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
    assert "3 record(s) checked" in capsys.readouterr().out
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
    assert "cannot stay" in capsys.readouterr().err
    assert main(["leaderboard", "check", str(tmp_path / "absent")]) == 2


def test_of_several_records_all_or_none_are_filed(tmp_path: Path, capsys: Any) -> None:
    good, bad = saved(tmp_path / "a"), saved(tmp_path / "b", status="failed", error="x")
    argv = ["leaderboard", "add", "--results", str(tmp_path / "results")]
    assert main([*argv, str(good), str(bad)]) == 2
    assert not (tmp_path / "results").exists()
    assert main([*argv, str(good)]) == main([*argv, str(good)]) == 0
    out, err = capsys.readouterr()
    shown = out.splitlines()
    assert "note" not in err and shown[-2].startswith("filed: ") and shown[-1].startswith("already there: ")


def test_where_two_of_several_do_not_go_together_none_is_filed(tmp_path: Path, capsys: Any) -> None:
    results = tmp_path / "results"
    one, other = saved(tmp_path / "a", "hat"), saved(tmp_path / "b", matrix=0.5)
    contrary, names = saved(tmp_path / "c", matrix=0.6), saved(tmp_path / "d", order=list(TASKS))
    argv = ["leaderboard", "add", "--results", str(results)]
    for last, told in (
        (contrary, "are of one spec, with different"),
        (names, "the same run, asked for in other words"),
    ):
        for more in ([], ["--replace"]):
            assert main([*argv, *more, str(one), str(other), str(last)]) == 2
            shown = capsys.readouterr().err
            assert told in shown and str(last) in shown and not results.exists()
    assert main([*argv, str(one), str(other), str(other)]) == 0
    assert main([*argv, str(names)]) == 2 and check(results) == (2, [])
    record = Record.load(names)
    record.save(results / place_of(record))
    (told,) = check(results)[1]
    assert "the same run" in told


def test_nothing_is_filed_through_a_link(tmp_path: Path) -> None:
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    elsewhere.mkdir()
    results.mkdir()
    (results / "demo").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="lies outside"):
        add(saved(tmp_path), results)
    assert list(elsewhere.iterdir()) == []
    ((told,),) = check(results)[1:]
    assert str(results / "demo") in told


def test_what_fits_only_before_it_is_filed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    monkeypatch.setattr("nlpcl.leaderboard.submit.MOST_BYTES", path.stat().st_size)
    with pytest.raises(UsageError, match="filed it would be larger"):
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
    assert "not as nlpcl writes it" in told


def test_a_tree_with_changes_is_told(tmp_path: Path, capsys: Any) -> None:
    for dirty in (True, False):
        path = saved(tmp_path, seed=int(dirty), measured={"git": {"commit": "ab", "dirty": dirty}})
        assert main(["leaderboard", "add", str(path), "--results", str(tmp_path / "results")]) == 0
        assert ("no commit holds" in capsys.readouterr().err) == dirty


def test_cells_against_a_plain_list() -> None:
    for tasks in (1, 2, 4):
        for i in range(tasks):
            for j in range(tasks):
                end = i == tasks - 1
                assert measured(i, j, tasks, "continual", "seen") == (j in range(i + 1))
                assert measured(i, j, tasks, "continual", "full")
                assert measured(i, j, tasks, "continual", "final") == measured(i, j, tasks, "joint", "seen") == end
                assert measured(i, j, tasks, "isolated", "final") == (i == j)
