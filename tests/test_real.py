"""Every method of this package on real ASC tasks with a real encoder, on each of its text backbones."""

from __future__ import annotations

from pathlib import Path

import pytest

from nlpcl.config.spec import RunSpec
from nlpcl.registry import backbones, strategies
from nlpcl.runs.run import run
from tests.helpers.contract import MEMORY, REPLAY

pytestmark = pytest.mark.full
PAIRS = [
    (entry.name, backbone.name)
    for entry in strategies.entries()
    for backbone in backbones.entries()
    if entry.engine and backbone.modality == "text" and (entry.backbones is None or backbone.name in entry.backbones)
]


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_trains_two_products(name: str, backbone: str, data_root: Path, tmp_path: Path) -> None:
    """It runs through, writes its record, and does not fall behind chance on the first product."""
    given = {
        "benchmark": "asc",
        "strategy": name,
        "backbone": backbone,
        "order": ["Bing9domains_ipod", "Bing9domains_HitachiRouter"],
        "scenario": strategies.get(name).scenarios[0],
        "train_size": 64,
        "epochs": 3,
    }
    if name in REPLAY:  # 2 % of 64 would be one example, which takes its head over
        given["options"] = MEMORY["options"]
    if backbones.get(backbone).words:
        given |= {"model": str(data_root / "glove" / "glove.6B.100d.top20k.txt.gz"), "epochs": 10}
    record = run(RunSpec.parse(given), data_root=data_root, out=tmp_path, device="cpu")
    assert (tmp_path / record.id / "record.json").is_file()
    row = record.matrices.accuracy[-1]
    learnt = record.matrices.accuracy[0][0] if row[0] is None else row[0]
    assert learnt is not None and learnt > 0.5
    assert record.derived()["average_accuracy"] is not None
