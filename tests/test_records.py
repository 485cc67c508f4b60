"""Records: round trip, checks, and nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.errors import UsageError
from nlpcl.records.record import Record, check_out, collect
from nlpcl.sweeps.cells import finished
from tests.helpers.messages import refused


def make(**changes: Any) -> Record:
    content: dict[str, Any] = {
        "status": "ok",
        "spec": resolve(RunSpec.parse({"strategy": "ncl"})).model_dump(mode="json"),
        "data": {"tasks": [{"name": "a"}, {"name": "b"}]},
        "sizes": {},
        "seeds": {"train": 0},
        "versions": {},
        "matrices": {"accuracy": [[1 / 3, None], [0.5, 1.0]], "macro_f1": [[0.2, None], [0.5, 1.0]]},
        "measured": {},
    }
    return Record.model_validate({**content, **changes})


def test_round_trip_and_readable_diffs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    make().save(path)
    again = Record.load(path)
    assert again.matrices.accuracy == make().matrices.accuracy == [[0.333333, None], [0.5, 1.0]]
    assert again.id == make().id == again.run_spec().id
    text = path.read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "other").write_text("x")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert again.derived()["average_accuracy"] == pytest.approx(0.75)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    make().save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with refused("record.json space"):
        make(sizes={"x": 1}).save(path)
    with pytest.raises(UsageError):
        make().save(tmp_path / "new" / "record.json")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "matrices",
    [
        {"accuracy": [[1.5]], "macro_f1": [[0.5]]},
        {"accuracy": [[0.5, 0.5]], "macro_f1": [[0.5]]},
        {"accuracy": [[float("nan")]], "macro_f1": [[0.5]]},
        {"accuracy": [], "macro_f1": [[0.5]]},
        {"accuracy": [[0.5]]},
        {"accuracy": [[0.5]], "macro_f1": [[0.5, None], [0.5, 0.5]]},
        {"accuracy": [[0.5]], "macro_f1": [[0.5]], "initial": [0.5, 0.5]},
        {"accuracy": [[0.5]], "macro_f1": [[0.5]], "initial": [7.0]},
        {"accuracy": [[0.5]], "macro_f1": [[0.5]], "initial": []},
    ],
)
def test_impossible_matrices_are_refused(matrices: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(matrices=matrices)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "ok"}', '{"record_version": 2}', "\x00\xff"])
def test_what_is_not_a_record_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content, encoding="latin-1")
    with refused("record.json"):
        Record.load(path)
    with refused("absent.json"):
        Record.load(tmp_path / "absent.json")


def test_a_failed_run_says_why() -> None:
    assert make(status="failed", error="out of memory").error == "out of memory"
    for changes in ({"status": "failed"}, {"error": "x"}, {"status": "failed", "error": ""}):
        with pytest.raises(ValidationError, match="error"):
            make(**changes)


@pytest.mark.parametrize(
    "measured",
    [
        {"peak_memory_mb": -1},
        {"seconds": {"train": [float("inf")]}},
        {"seconds": {"train": [1e308] * 3}},
        {"seconds": {"evaluate": [1.0] * 1002}},
        {"processes": 0},
        {"user": "someone"},
    ],
)
def test_what_cannot_have_been_measured_is_refused(measured: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(measured=measured)


@pytest.mark.parametrize("part", ["spec", "data", "sizes"])
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_no_record_can_hold_are_damage(tmp_path: Path, part: str, number: str) -> None:
    """To what reads many, as a sweep does, such a file is no record."""
    path = tmp_path / make().id / "record.json"
    make(**{part: {"a": "number"}}).save(path)
    path.write_text(path.read_text().replace('"number"', number, 1))
    with refused("record.json") as caught:
        Record.load(path)
    assert len(str(caught.value)) < 300
    assert finished(path) is None
    with refused("record.json"):
        collect(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().save(tmp_path / "record.json")
    monkeypatch.setattr("nlpcl.config.files.MOST_BYTES", 100)
    with refused("record.json MiB"):
        Record.load(tmp_path / "record.json")


def test_the_published_schema_is_this_one() -> None:
    published = Path(__file__).parents[1] / "docs" / "record.schema.json"
    assert json.loads(published.read_text()) == Record.model_json_schema()


@pytest.mark.parametrize("spec", [{}, {"spec_version": 1}])
def test_a_spec_that_is_not_complete_cannot_be_repeated(spec: dict[str, Any]) -> None:
    with refused("spec"):
        make(spec=spec).run_spec()


def test_collecting_a_folder(tmp_path: Path) -> None:
    for name, score in (("a", 0.5), ("b", 1.0)):
        matrix = [[score]]
        make(matrices={"accuracy": matrix, "macro_f1": matrix}).save(tmp_path / name / "record.json")
    table = collect(tmp_path)
    assert list(table["average_accuracy"]) == [0.5, 1.0]
    assert set(table["strategy"]) == {"ncl"} and set(table["id"]) == {make().id}
    assert collect(tmp_path / "absent").empty


def test_an_out_that_cannot_hold_records(tmp_path: Path) -> None:
    check_out(tmp_path / "not" / "yet")
    (tmp_path / "file").write_text("x")
    with refused("--out"):
        check_out(tmp_path / "file" / "below")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
