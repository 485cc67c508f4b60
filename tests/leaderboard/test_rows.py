"""Which records stand in one row, and what stands beside it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from nlpcl.leaderboard.cells import spread
from nlpcl.leaderboard.published import OURS, beside, read_published
from nlpcl.leaderboard.rows import Row, gather, load
from nlpcl.leaderboard.submit import MOST_FILED_BYTES, place_of
from nlpcl.records.record import Record
from tests.helpers.messages import mentions, refused
from tests.helpers.records import TASKS, file_many, record_of, triangle

NAMED = Path(__file__).resolve().parents[2] / "leaderboard" / "published.csv"
FACTS = record_of().data


def rows_of(folder: Path, *records: Record) -> list[Row]:
    for record in records:
        record.save(folder / place_of(record))
    return gather(load(folder)[0])


def test_mean_spread_and_rank_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    values = {"ncl": [0.4, 0.5, 0.6], "ewc": [0.5, 0.5, 0.7], "hat": [0.3, 0.8, 0.9]}
    records = [record_of(name, order, 0, value) for name, of in values.items() for order, value in enumerate(of)]
    rows = rows_of(tmp_path, *records)
    ranks: dict[str, list[float]] = {name: [] for name in values}
    for block in zip(*values.values(), strict=True):
        for name, mine in zip(values, block, strict=True):
            ranks[name].append(1 + sum(x > mine for x in block) + (sum(x == mine for x in block) - 1) / 2)
    assert [row.strategy for row in rows] == ["hat", "ewc", "ncl"]  # the most accurate first
    for row in rows:
        score, rank = row.scores["average_accuracy"], row.rank
        assert score is not None and score.sd is not None and rank is not None
        assert score.mean == pytest.approx(statistics.mean(values[row.strategy]))
        assert score.sd == pytest.approx(statistics.stdev(values[row.strategy]))
        assert rank.value == pytest.approx(statistics.mean(ranks[row.strategy]))
        assert (rank.methods, rank.blocks) == (3, 3)


def test_ranks_are_over_the_runs_that_all_have(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *(record_of("ncl", order, 0, 0.5) for order in (0, 1)), record_of("ewc", 1, 0, 0.6))
    assert [(row.strategy, len(row.runs), row.rank and row.rank.blocks) for row in rows] == [
        ("ewc", 1, 1),
        ("ncl", 2, 1),
    ]
    (tmp_path / place_of(record_of("ewc", 1))).unlink()
    rows = rows_of(tmp_path, record_of("ewc", 2, 0, 0.6))
    assert [row.rank for row in rows] == [None, None]


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"epochs": 3}},
        {"spec": {"backbone": "bert"}},
        {"spec": {"model": "bert-base-uncased"}},
        {"spec": {"benchmark_options": {"noise": 0.5}}},
        {"spec": {"best_epoch": True}},
        {"data": {**FACTS, "encoder": {"name": "minilm", "model.safetensors": "ffff"}}},
        {"data": {**FACTS, "files": {"a.csv": "01"}}},
    ],
    ids=str,
)
def test_different_protocols_are_never_averaged_or_ranked_together(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = {**FACTS, "files": {"a.csv": "00"}}
    known = [record_of("ncl", 0, 0, 0.5, data=data), record_of("ewc", 0, 0, 0.6, data=data)]
    rows = rows_of(tmp_path, *known, record_of("ncl", 0, 1, 0.9, **{"data": data, **changes}))
    check_apart(rows)


def test_other_tasks_of_the_same_order_are_another_protocol(tmp_path: Path) -> None:
    data = {**FACTS, "tasks": [{**task, "test": 119} for task in FACTS["tasks"]]}
    check_apart(rows_of(tmp_path, record_of("ncl"), record_of("ewc"), record_of("hat", data=data)))


def check_apart(rows: list[Row]) -> None:
    """Two rows of one protocol, and a third that the reader can tell from them."""
    assert len(rows) == 3 and {len(row.runs) for row in rows} == {1}
    protocols = {id(row.protocol): row.protocol for row in rows}
    assert len(protocols) == 2 and sorted(row.rank is None for row in rows) == [False, False, True]
    assert len({(p["backbone"], p["model"], p.budget) for p in protocols.values()}) == 2


def test_orders_of_other_tasks_are_of_one_protocol(tmp_path: Path) -> None:
    """The first three tasks of two orders: other files, other tasks."""
    renamed = [{**task, "name": f"{task['name']} 2"} for task in FACTS["tasks"]]
    (row,) = rows_of(
        tmp_path,
        record_of("ncl", 0, 0, 0.4, data={**FACTS, "files": {"a.csv": "00"}}),
        record_of("ncl", 1, 0, 0.6, data={**FACTS, "files": {"b.csv": "01"}, "tasks": renamed}),
    )
    assert spread(row.scores["average_accuracy"]) == f"50.0 ± {100 * statistics.stdev([0.4, 0.6]):.1f}"


def test_settings_of_one_method_are_rows_that_say_so(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, record_of("ewc"), record_of("ewc", spec={"learning_rate": 0.5}), record_of("ncl"))
    assert sorted((row.strategy, row.setting.partition("=")[0]) for row in rows) == [
        ("ewc", "learning_rate"), ("ewc", "learning_rate"), ("ncl", ""),
    ]  # fmt: skip
    assert len({row.id for row in rows}) == 3 and len({id(row.protocol) for row in rows}) == 1


def test_a_row_keeps_its_address_when_others_come(tmp_path: Path) -> None:
    (before,) = rows_of(tmp_path, record_of("ewc"))
    after = rows_of(tmp_path, record_of("ewc", 1), record_of("ewc", spec={"epochs": 9}), record_of("hat"))
    assert before.id in {row.id for row in after}


def test_two_records_of_one_run_that_differ_are_refused(tmp_path: Path) -> None:
    record_of("ncl", matrix=0.5).save(tmp_path / "a" / "record.json")
    record_of("ncl", matrix=0.6).save(tmp_path / "b" / "record.json")
    with refused("order seed differ"):
        gather(load(tmp_path)[0])


def test_failed_runs_are_counted_and_not_shown(tmp_path: Path) -> None:
    record_of("ncl").save(tmp_path / "a" / "record.json")
    record_of("ewc", status="failed", error="out of memory").save(tmp_path / "b" / "failed.json")
    runs, failed = load(tmp_path)
    assert ([run.spec["strategy"] for run in runs], failed) == (["ncl"], 1)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("data.tasks required", {"data": {}}),
        ("data.tasks 3 laptop", {"data": {"tasks": FACTS["tasks"][:2]}}),
        ("data.tasks.0.name", {"data": {"tasks": [{**FACTS["tasks"][0], "name": {"a": 1}}]}}),
        ("data.files", {"data": {**FACTS, "files": ["a.csv"]}}),
    ],
)
def test_data_that_no_run_writes_are_refused(tmp_path: Path, words: str, changes: dict[str, Any]) -> None:
    record_of(**changes).save(tmp_path / "record.json")
    with refused(f"record.json {words}"):
        load(tmp_path)


@pytest.mark.parametrize("content", ['{"matrices": {"accuracy": [[NaN]]}}', "[]", "", "[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with refused("record.json"):
        load(tmp_path)


def test_a_huge_matrix_is_refused(tmp_path: Path) -> None:
    text = record_of().model_dump_json().replace('"macro_f1":[[0.5', '"macro_f1":[[' + "0.5," * 10**6 + "0.5", 1)
    (tmp_path / "record.json").write_text(text)
    assert len(text) < MOST_FILED_BYTES
    with refused("macro_f1 square"):
        load(tmp_path)
    (tmp_path / "record.json").write_text(text + " " * MOST_FILED_BYTES)
    with refused("record.json 4 MiB"):
        load(tmp_path)
    with refused(str(tmp_path / "none")):
        load(tmp_path / "none")


def test_the_published_figures_are_read() -> None:
    published = [figure for figures in read_published().values() for figure in figures]
    assert {p.metric for p in published} == {"average_accuracy", "macro_f1", "bwt"} and NAMED.samefile(OURS)
    assert all(p.source and p.tasks > 1 for p in published)
    assert [p.strategy for p in published if p.value < 0] == [p.strategy for p in published if p.metric == "bwt"]


def test_a_published_figure_stands_beside_ours_with_what_differs(tmp_path: Path) -> None:
    lines = [
        "benchmark,scenario,backbone,strategy,model,tasks,train_size,metric,value,data,source",
        "demo,til,bert_adapter,ncl,bert-base-uncased,3,,average_accuracy,60.5,,a table",
        "demo,til,bert_adapter,ncl,bert-base-uncased,3,20,average_accuracy,40.25,,another",
        "demo,til,bert_adapter,ewc,minilm,3,20,average_accuracy,40,another edition,a table",
    ]
    (tmp_path / "published.csv").write_text("\n".join(lines) + "\n")
    published = read_published(tmp_path / "published.csv")
    other = record_of("ncl", 0, 0, 0.5, spec={"model": "google-bert/bert-base-uncased"})
    for row in rows_of(tmp_path / "results", record_of("ncl"), other, record_of("ewc"), record_of("hat")):
        found = beside(row, published, "average_accuracy")
        if row.strategy == "hat":
            assert found is None
            continue
        assert found is not None and found.difference == pytest.approx(0.5 - found.value)
        if row.strategy == "ewc":
            assert found.unlike == ("another edition",)
        else:  # the nearer of two
            assert (found.value, found.source) == (pytest.approx(0.4025), "another")
            same = row.protocol["model"] != "minilm"
            assert not found.unlike if same else mentions(*found.unlike, "encoder bert-base-uncased minilm")
        assert beside(row, published, "macro_f1") is None


@pytest.mark.parametrize(
    "line", ["demo,til,b,ncl,m,3,,average_accuracy,101,,s", "demo,til,b,ncl,m,3,,f,nan,,s", "demo"]
)
def test_a_wrong_published_figure_is_refused(tmp_path: Path, line: str) -> None:
    head = "benchmark,scenario,backbone,strategy,model,tasks,train_size,metric,value,data,source"
    (tmp_path / "published.csv").write_text(f"{head}\n{line}\n")
    with refused("published.csv 2"):
        read_published(tmp_path / "published.csv")
    with refused("none.csv"):
        read_published(tmp_path / "none.csv")


def test_generated_records_pass_for_filed_ones(tmp_path: Path) -> None:
    number = file_many(tmp_path, ["ncl", "hat"], [{"benchmark": "asc"}], orders=2, seeds=2)
    rows = gather(load(tmp_path)[0])
    assert number == 8 and [len(row.runs) for row in rows] == [4, 4] and rows[0].protocol["number_of_tasks"] == "5"


def test_a_run_without_all_scores_has_a_row_without_figures(tmp_path: Path) -> None:
    gap = triangle([0.5], [0.5, 0.5], [0.5, 0.5, 0.5])
    gap[2][2] = None
    gap[0][0] = gap[1][0] = gap[2][0] = None
    (row,) = rows_of(tmp_path, record_of("ncl", matrix=gap))
    assert (
        row.scores["average_accuracy"] is None
        and spread(None) == ""
        and row.protocol["number_of_tasks"] == str(len(TASKS))
    )
