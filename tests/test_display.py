"""What is shown while a run works, and that what is shown at its end fits the screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nlpcl.cli.display import ProgressReporter, print_record
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


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_or_a_line_an_epoch(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    reporter = ProgressReporter()
    reporter.encoded(1, 2)
    reporter.encoded(2, 2)
    reporter.start(["group_first"], [2])
    for epoch in range(2):
        for step in (1, 2):
            reporter.epoch(0, epoch, 0.5, step, 2)
    reporter.say("a sentence")
    reporter.evaluated(0, [0.75, None])
    reporter.stop()
    lines = capsys.readouterr().err.splitlines()
    plain = [line for line in lines if "\x1b" not in line and "\r" not in line]
    assert any("\x1b" in line for line in lines) == terminal
    if not terminal:
        expected = ["encoder: 2 of 2", "task 1/1 first, epoch 1/2, loss 0.500", "epoch 2/2", "a sentence", "75.0 %"]
        assert len(plain) == len(expected) and all(a in b for a, b in zip(expected, plain, strict=True))
