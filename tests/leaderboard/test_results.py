"""The folder of results is sound."""

from __future__ import annotations

from pathlib import Path

from nlpcl.leaderboard.submit import check

RESULTS = Path(__file__).resolve().parents[2] / "leaderboard" / "results"


def test_every_result_is_sound_and_in_its_place() -> None:
    files, problems = check(RESULTS)
    assert problems == [], f"{len(problems)} of {files}"
