"""`nlpcl list --matrix`: what the registry says runs, held against what the original toolkit documents."""

from __future__ import annotations

import json
from typing import Any

from nlpcl.cli import main
from nlpcl.cli.coverage import DOCUMENTED, IMAGE, LANGUAGE, missing, strategy_matrix
from nlpcl.registry import backbones, strategies


def test_the_documented_list_is_complete() -> None:
    """18 documented methods, 68 pairs on language and 18 on images, and two of GEM."""
    of_documentation = {method: pairs for method, pairs in DOCUMENTED.items() if method != "gem"}
    assert len(of_documentation) == 18
    for modality, count in ((LANGUAGE, 68), (IMAGE, 18)):
        assert sum(backbone in modality for pairs in of_documentation.values() for backbone in pairs) == count
    assert all(len(set(pairs)) == len(pairs) for pairs in DOCUMENTED.values())


def test_every_documented_pair_runs_here() -> None:
    assert missing(strategy_matrix()) == []


def test_the_matrix_is_the_registry() -> None:
    matrix = strategy_matrix()
    assert list(matrix) == strategies.names()
    for entry in strategies.entries():
        assert list(matrix[entry.name]) == backbones.names()
        runs = {backbone for backbone, scenarios in matrix[entry.name].items() if scenarios}
        assert runs == set(backbones.names() if entry.backbones is None else entry.backbones)
    assert matrix["ctr"]["bert_adapter"] == ("til",) and matrix["ctr"]["cnn"] == ()


def test_what_is_missing_is_named() -> None:
    matrix = {method: dict.fromkeys(pairs, ("til",)) for method, pairs in DOCUMENTED.items()}
    assert missing(matrix) == []
    del matrix["ctr"]
    matrix["hat"]["mlp"] = ()  # type: ignore[assignment]
    assert missing(matrix) == ["hat on mlp", "ctr on bert_adapter"]


def test_the_command_shows_it(capsys: Any) -> None:
    assert main(["list", "--matrix", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["matrix"] == json.loads(json.dumps(strategy_matrix()))
    assert content["missing"] == missing(strategy_matrix())
    assert content["documented"]["kan"] == ["bert_frozen", "w2v", "w2v_as"] and content["source"].startswith("https://")
    assert main(["list", "--matrix"]) == 0
    shown = capsys.readouterr().out
    assert "avalanche/" in shown and "of 88 pairs" in shown
