"""The examples run as they stand, with a tiny encoder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHOWN = {
    "own_data": r"after soup: soup \d+%\nafter beer: soup \d+%, beer \d+%",
    "own_method": r"strength 0.0: accuracy .*\nstrength 0.01: accuracy .*",
    "own_encoder": r"1 layers, [\d,]+ parameters; .*lower-half.*\naccuracy .*%",
    "resume": r"went on from a checkpoint: 1 time\(s\)\nthe same matrices to the last bit: True",
    "sweep": r"4 runs, 0 failed\n[\s\S]*\| ncl − hat \|",
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_example(name: str, tiny: str, tmp_path: Path) -> None:
    """In an empty folder, which stays empty."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", tiny], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.search(SHOWN[name], done.stdout), done.stdout
    assert not list(tmp_path.iterdir())
