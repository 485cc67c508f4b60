"""A field of the spec is declared in one place: a copy of the package with one more declaration has it everywhere."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nlpcl.config.resolve import resolve
from nlpcl.config.spec import FIELDS, RunSpec
from nlpcl.training.strategy import ContinualStrategy

ROOT = Path(__file__).resolve().parents[1]
DECLARATION = '''
    sharpness: Annotated[
        Share, SpecField(flags=("--sharpness", "--sharp"), settable=True, engine=True, cost=True, compared="method"),
        Since(2),
    ] = 0.25
    """How sharp it is."""
    data_sha256:'''
SCRIPT = """
import io, json, sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from nlpcl.cli import main
from nlpcl.config.arguments import Request
from nlpcl.config.spec import RunSpec
from nlpcl.errors import UsageError
from nlpcl.leaderboard.compare import METHOD
from nlpcl.options import Options, option
from nlpcl.records.record import Record
from nlpcl.sweeps.grid import Grid
from nlpcl.sweeps.cells import Cell
from nlpcl.sweeps.plan import estimates
from nlpcl.sweeps.tune import Search

def says(*argv):
    with redirect_stdout(io.StringIO()) as text:
        main(list(argv))
    return " ".join(text.getvalue().replace("\\u2502", " ").split())

def refused(make):
    try:
        make()
    except (UsageError, ValueError) as error:
        return str(error)

def reserved():
    class OddOptions(Options):
        sharpness: float = option(1.0, "a name that is taken")

plain = Request({"strategy": "ncl"})
flagged = Request({"strategy": "ncl", "sharpness": "0.5"})
file = Path("grid.toml")
file.write_text('strategy = "ncl"\\nsharpness = [0.1, 0.2]')
search = Search.asked(replace(plain, assign=("sharpness=0.1..0.9",)), "first-task")
record = Record.load(sys.argv[1])
asked = record.run_spec()
cells = [Cell(plain, name, spec, name) for name, spec in (
    ("same", asked), ("other", asked.model_copy(update={"sharpness": 0.5})))]
print(json.dumps({
    "help": [says(command, "--help") for command in ("run", "sweep", "tune")],
    "default": [plain.spec().sharpness, plain.spec().id],
    "flag": [flagged.spec().sharpness, flagged.spec().id, flagged.spec().spec_version, flagged.argv()],
    "set": replace(plain, assign=("sharpness=0.5",)).spec().id,
    "refused": refused(lambda: Request({"strategy": "ncl", "sharpness": "2"}).spec()),
    "reserved": refused(reserved),
    "grid": [request.fields["sharpness"] for grid in Grid.read(file) for request in grid.requests()],
    "engine": flagged.spec().engine_settings(),
    "method": METHOD,
    "usual": search.usual(),
    "preset": search.preset(("0.3",), "").values,
    "seconds": estimates(cells, [record]),
}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the copy of the package says of the field."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "nlpcl", folder / "nlpcl", ignore=shutil.ignore_patterns("__pycache__"))
    spec = folder / "nlpcl" / "config" / "spec.py"
    before, _, after = spec.read_text(encoding="utf-8").partition("\n    data_sha256:")
    spec.write_text(before + DECLARATION + after, encoding="utf-8")
    record = next((ROOT / "leaderboard" / "results").rglob("*.json"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(record)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_has_the_field(answers: dict[str, Any]) -> None:
    for text in answers["help"]:
        assert "--sharpness" in text and "--sharp" in text and "How sharp it is." in text
    value, id, version, argv = answers["flag"]
    assert (value, version) == (0.5, 2) and argv[-2:] == ["--sharpness", "0.5"]
    assert answers["set"] == id
    assert "sharpness" in answers["refused"] and "0 to 1" in answers["refused"]


def test_older_specs_keep_their_id(answers: dict[str, Any]) -> None:
    value, id = answers["default"]
    assert value == 0.25 and id == resolve(RunSpec.parse({"strategy": "ncl"})).id != answers["flag"][1]


def test_grids_searches_estimates_and_comparisons_have_the_field(answers: dict[str, Any]) -> None:
    assert answers["grid"] == ["0.1", "0.2"]
    assert answers["usual"] == {"sharpness": 0.25} and answers["preset"] == {"sharpness": 0.3}
    assert answers["seconds"]["same"] > 0 and answers["seconds"]["other"] is None
    assert "sharpness" in answers["method"]


def test_strategies_get_the_setting_and_no_option_can_take_its_name(answers: dict[str, Any]) -> None:
    assert answers["engine"]["sharpness"] == 0.5
    assert "sharpness" in answers["reserved"]


def test_the_engine_takes_every_setting_of_the_spec() -> None:
    settings = {name for name, field in FIELDS.items() if field.engine}
    assert settings and settings <= set(inspect.signature(ContinualStrategy.__init__).parameters)
