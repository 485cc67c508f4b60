"""tools/speed.py measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "speed.py"


@pytest.mark.full
def test_the_tool_measures_and_reports(tiny: str, data_root: Path, tmp_path: Path) -> None:
    words = ["--data-root", str(data_root), "--encoder", tiny, "--max-length", "32", "--adapter-size", "8"]
    words += ["--strategies", "ncl,hat", "--tasks", "2", "--steps", "2", "--rounds", "1", "--batch", "4"]
    done = subprocess.run(
        [sys.executable, str(TOOL), *words, "--out", str(tmp_path / "speed.json")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "speed.json").read_text())
    assert set(found["strategies"]["ncl"]["in_turns"]) == {"ncl", "ncl again", "bare loop", "Avalanche's Naive"}
    assert set(found["strategies"]["hat"]["in_turns"]) == {"hat", "ncl"}
    for cost in found["strategies"].values():
        assert len(cost["step"]) == 2 and list(cost["evaluation"]) == ["1", "2"]
        times = [*cost["step"], *cost["evaluation"].values(), *cost["in_turns"].values()]
        assert all(seconds > 0 for seconds in times)
    assert found["batch"]["texts"] == 4 and 0 <= found["batch"]["padding_share"] < 1
    step = found["strategies"]["hat"]["in_turns"]
    assert f"| hat | {step['hat']:.3f} | {step['hat'] / step['ncl']:.2f} |" in done.stdout
