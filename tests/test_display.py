"""What is shown at the end of a run fits the screen."""

from __future__ import annotations

import io

from rich.console import Console

from nlpcl.cli.display import print_record
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.records.record import Record


def shown(tasks: int, width: int) -> str:
    matrix = [[0.9 - 0.01 * (i - j) if j <= i else None for j in range(tasks)] for i in range(tasks)]
    record = Record.model_validate(
        {
            "status": "ok",
            "spec": resolve(RunSpec.parse({"strategy": "ncl"})).model_dump(mode="json"),
            "data": {"tasks": [{"name": f"group_task{i}"} for i in range(tasks)]},
            "sizes": {},
            "seeds": {"train": 0},
            "versions": {},
            "matrices": {"accuracy": matrix, "macro_f1": matrix},
            "measured": {},
        }
    )
    screen = io.StringIO()
    print_record(Console(file=screen, width=width, markup=False), record)
    return screen.getvalue()


def test_a_matrix_that_fits_is_shown_whole() -> None:
    text = shown(5, 80)
    assert all(number in text for number in ("90.0", "89.0", "86.0")) and "…" not in text


def test_a_matrix_that_does_not_fit_becomes_a_row_per_task() -> None:
    text = shown(19, 80)
    assert "in the end" in text and "…" not in text
    (first,) = (line for line in text.splitlines() if " 1 task0 " in line)
    assert "90.0" in first and "72.0" in first
    assert "after task" in shown(19, 200)
