"""Faults of a user's data, collected so that all are shown at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nlpcl.errors import UsageError, UsageErrors

ROWS_SHOWN = 5


class Problems(list[str]):
    """A sentence each, without its full stop."""

    def add_rows(self, place: str, fault: str, rows: Sequence[int], total: int, *, lines: bool = True) -> None:
        """Add one fault that several rows of a table share.

        :param place: the file, or the part of a task.
        :param rows: numbers of the rows.
        :param total: how many rows the table has.
        :param lines: whether a row's number is its line in a file.
        """
        remarks = [] if lines else ["counted from 1"]
        if len(rows) > 1:
            more = f" and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else ""
            remarks.append(f"in {len(rows)} of {total} rows: {', '.join(map(str, rows[:ROWS_SHOWN]))}{more}")
        suffix = f" ({'; '.join(remarks)})" if remarks else ""
        self.append(f"{place}, row {rows[0]}: {fault}{suffix}")

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Collect the UsageError that the block raises."""
        try:
            yield
        except UsageErrors as error:
            self.extend(error.args[1])
        except UsageError as error:
            self.append(str(error).rstrip("."))

    def check(self, source: str) -> None:
        """Raise what was collected, if anything was.

        :param source: the data that have the problems.
        :raises UsageError: the one problem, or `UsageErrors`.
        """
        if len(self) == 1:
            raise UsageError(self[0] if self[0].endswith("?") else f"{self[0]}.")
        if self:
            listed = f", of which {UsageErrors.SHOWN} are listed" if len(self) > UsageErrors.SHOWN else ""
            raise UsageErrors(f"{source} has {len(self)} problems{listed}.", self)
