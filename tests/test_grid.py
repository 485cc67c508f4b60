"""What a grid means, on a command line and in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.config.arguments import Request
from nlpcl.sweeps.grid import Grid, values_of
from tests.helpers.messages import mentions


@pytest.mark.parametrize(
    ("name", "given", "values"),
    [
        ("strategy", "ncl, hat", ["ncl", "hat"]),
        ("order", "0-2,7", ["0", "1", "2", "7"]),
        ("order", "seed:3-4", ["seed:3", "seed:4"]),
        ("order", "laptop,hotel", ["laptop,hotel"]),
        ("order", ["laptop,hotel", "1-2"], ["laptop,hotel", "1", "2"]),
        ("tasks", "2,5", ["2", "5"]),
        ("epochs", "laptop=10,*=30", ["laptop=10,*=30"]),
        ("learning_rate", "1e-3,5e-3", ["1e-3", "5e-3"]),
        ("model", "3-4", ["3-4"]),
        ("lamb", [0.5, 1], ["0.5", "1"]),
        ("parity", [True, False], ["true", "false"]),
        ("tiers", "[1,2]", ["[1,2]"]),
    ],
)
def test_the_values_of_an_option(name: str, given: Any, values: list[str]) -> None:
    assert values_of(name, given) == values


def test_a_grid_is_every_value_with_every_other() -> None:
    grid = Grid({"seed": "0-2", "strategy": "ncl,hat", "order": "1,seed:4"}, {"adapter_size": "8,16"})
    loops = [
        ({"strategy": strategy, "order": order, "seed": str(seed)}, (f"adapter_size={size}",))
        for strategy in ("ncl", "hat")
        for order in ("1", "seed:4")
        for seed in range(3)
        for size in (8, 16)
    ]
    assert [(dict(request.fields), request.assign) for request in grid.requests()] == loops


def test_grids_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        """
        train-size = 20
        order = "0-1"
        [[grid]]
        strategy = ["ncl", "hat"]
        set.adapter_size = [8, 16]
        [[grid]]
        strategy = "one"
        order = 5
        """
    )
    given = Grid({"train_size": "30"}, {"warmup": "0.1"})
    found = [r for grid in Grid.read(file) for r in grid.with_more(given).requests()]
    loops = [(s, str(order), f"adapter_size={size}") for s in ("ncl", "hat") for order in (0, 1) for size in (8, 16)]
    assert [(r.fields["strategy"], r.fields["order"], r.assign[0]) for r in found[:-1]] == loops
    assert found[-1] == Request({"train_size": "30", "order": "5", "strategy": "one"}, ("warmup=0.1",))
    assert all(r.fields["train_size"] == "30" and r.assign[-1] == "warmup=0.1" for r in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stratgy = 'ncl'", "stratgy strategy"),
        ("[grid]\nseed = 1", "[[grid]]"),
        ("set = 3", "set"),
        ("order = [['a', 'b']]", "order"),
        ("seed = []", "seed"),
        ("seed =", "TOML"),
        ("order = 2020-01-01", "order"),
        ("set = {lamb = [12:00:00]}", "lamb"),
        pytest.param(f"seed = {'1' * 5000}", "TOML", id="a long number"),
        pytest.param(f"seed = 0x{'1' * 5000}", "seed", id="a long number in hex"),
        pytest.param(f"seed = {'[' * 5000}", "TOML", id="deep"),
    ],
)
def test_a_file_that_is_no_grid(text: str, words: str, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(text)
    assert main(["sweep", "--file", str(tmp_path / "grid.toml"), "--dry-run"]) == 2
    assert mentions(capsys.readouterr().err, words)
