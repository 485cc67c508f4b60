"""Write records into a folder and compare those of some methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nlpcl.leaderboard.compare import Comparison, compare
from nlpcl.leaderboard.files import read_runs, select_runs
from tests.helpers.records import record_of


def file(folder: Path, *given: Any, **changes: Any) -> Path:
    record = record_of(*given, **changes)
    path = folder / record.id / "record.json"
    record.save(path)
    return path


def compared(folder: Path, *names: str, **more: Any) -> Comparison:
    where = more.pop("where", None)
    return compare(select_runs(names, read_runs(folder), where), **more)
