"""The method on docs/adding-a-method.md, exactly as it stands there, keeps what a method promises."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.registry import strategies
from tests.helpers.contract import check_strategy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's code as an installed package whose entry point names it."""
    page = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n)+", page, flags=re.MULTILINE)
    (code,) = (textwrap.dedent(block).strip() + "\n" for block in blocks if '"""' in block)
    folder = tmp_path_factory.mktemp("package")
    (folder / "l2sp.py").write_text(code)
    facts = folder / "l2sp-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: l2sp\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[nlpcl.strategies]\nl2sp = l2sp\n")
    return folder


def test_it_is_listed_described_run_and_keeps_the_contract(
    package: Path, tiny: str, folders: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with strategies.replacing():
        monkeypatch.syspath_prepend(package)
        assert main(["list"]) == 0
        assert "l2sp" in capsys.readouterr().out
        assert main(["info", "l2sp"]) == 0
        assert "weight of the penalty" in capsys.readouterr().out
        argv = ["run", "--strategy", "l2sp", "--set", "strength=0.5", "--model", tiny, "--out", str(tmp_path / "runs")]
        assert main([*argv, "--tasks", "2", "--train-size", "20", "--epochs", "1"]) == 0
        check_strategy("l2sp", "bert_adapter", "til", tiny, folders["til"], monkeypatch)
    sys.modules.pop("l2sp")


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_its_style_and_its_types_are_clean(command: str, package: Path) -> None:
    settings = "--config-file" if command == "mypy" else "--config"
    argv = [sys.executable, "-m", *command.split(), settings, ROOT / "pyproject.toml", package / "l2sp.py"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
