"""Which runs are of one protocol, order and seed, though their records say it differently or say more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nlpcl.leaderboard.files import read_runs
from nlpcl.leaderboard.rows import gather
from tests.helpers.comparisons import compared, file
from tests.helpers.messages import mentions, refused
from tests.helpers.records import TASKS, record_of


def test_an_order_by_its_number_and_by_its_names_is_one(tmp_path: Path) -> None:
    """One run of each method, whoever asked for it how."""
    file(tmp_path, "ncl", 0, 0, 0.5)
    file(tmp_path, "ncl", list(TASKS), 0, 0.5)
    file(tmp_path, "ewc", list(TASKS), 0, 0.6)
    file(tmp_path, "hat", "seed:3", 0, 0.6, data=record_of(order=list(reversed(TASKS))).data)
    file(tmp_path, "derpp", list(reversed(TASKS)), 0, 0.6)
    assert compared(tmp_path, "ncl", "ewc").blocks == [("0", 0)]
    assert len(compared(tmp_path, "hat", "derpp").blocks) == 1
    (row,) = [row for row in gather(read_runs(tmp_path)) if row.strategy == "ncl"]
    assert list(row.runs) == [("0", 0)]
    file(tmp_path, "ncl", [*TASKS, "camera"], 0, 0.7)
    with refused("order seed differ"):
        compared(tmp_path, "ncl", "ewc")


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [("revision", "aa", "bb"), ("tokenizer", {"vocab.txt": "aa"}, {"vocab.txt": "bb", "tokenizer.json": "cc"})],
)
def test_what_of_the_encoder_both_tell_must_agree(tmp_path: Path, field: str, value: Any, other: Any) -> None:
    def data(told: Any) -> dict[str, Any]:
        facts = record_of().data
        return {**facts, "encoder": {**facts["encoder"], **({field: told} if told else {})}}

    for strategy, told in (("ncl", value), ("ewc", value), ("hat", other), ("ctr", None)):
        file(tmp_path, strategy, data=data(told))
    assert compared(tmp_path, "ncl", "ewc").blocks == compared(tmp_path, "hat", "ctr").blocks == [("0", 0)]
    with refused(f"data.encoder.{field} aa bb --allow"):
        compared(tmp_path, "ncl", "hat")
    assert compared(tmp_path, "ncl", "hat", allow=["data.encoder"]).blocks == [("0", 0)]
    rows = {row.strategy: row.protocol for row in gather(read_runs(tmp_path))}
    assert rows["ncl"] is rows["ewc"] is rows["ctr"] is not rows["hat"]
    assert mentions(rows["hat"].budget, "data 1")


def test_a_copy_counts_once_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc")
    record_of("ewc").save(tmp_path / "again" / "record.json")
    assert compared(tmp_path, "ncl", "ewc").blocks == [("0", 0)]
    record_of("ewc", matrix=0.6).save(tmp_path / "other" / "record.json")
    with refused("order seed differ"):
        compared(tmp_path, "ncl", "ewc")
