"""Every method of this package on real ASC tasks with a real encoder, on each of its text backbones."""

from __future__ import annotations

from pathlib import Path

import pytest

from nlpcl.experiment import run
from nlpcl.registry import backbones, strategies
from nlpcl.spec import RunSpec

pytestmark = pytest.mark.full
PAIRS = [
    (entry.name, backbone.name)
    for entry in strategies.entries()
    for backbone in backbones.entries()
    if entry.engine and backbone.modality == "text" and (entry.backbones is None or backbone.name in entry.backbones)
]


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_trains_two_products(name: str, backbone: str, data_root: Path, tmp_path: Path) -> None:
    """The first product's labels can be learnt: at least as well as by always saying what is most frequent, nearly."""
    given = {
        "benchmark": "asc",
        "strategy": name,
        "backbone": backbone,
        "order": ["Bing9domains_ipod", "Bing9domains_HitachiRouter"],
        "scenario": strategies.get(name).scenarios[0],
        "epochs": 3,
    }
    record = run(RunSpec.parse(given), data_root=data_root, out=tmp_path, device="cpu")
    assert (tmp_path / record.id / "record.json").is_file()
    row = record.matrices.accuracy[-1]
    learnt = record.matrices.accuracy[0][0] if row[0] is None else row[0]
    assert learnt is not None and learnt >= 0.6  # 15 of the 20 test examples are positive
    assert record.derived()["average_accuracy"] is not None
