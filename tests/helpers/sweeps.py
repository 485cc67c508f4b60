"""A watch of sweeps for tests."""

from __future__ import annotations

from collections.abc import Sequence

from nlpcl.sweeps.cells import Cell, Outcome


class Told:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.stopped = 0

    def running(self, cells: Sequence[Cell]) -> None:
        pass

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def stopping(self, runs: int) -> None:
        self.stopped = runs
