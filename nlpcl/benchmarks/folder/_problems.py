"""Faults of a user's data, collected so that all are shown at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from nlpcl.errors import UsageError, UsageErrors


class Problems(list[str]):
    """A sentence each, without its full stop."""

    def add_rows(self, place: str, faults: Mapping[str, Sequence[int]], total: int, *, lines: bool = True) -> None:
        """Add faults that each several rows of a table share.

        :param place: the file, or the part of a task.
        :param faults: numbers of the rows by fault.
        :param total: how many rows the table has.
        :param lines: whether a row's number is its line in a file.
        """
        for fault, rows in ((fault, rows) for fault, rows in faults.items() if rows):
            remarks = [] if lines else ["counted from 1"]
            if len(rows) > 1:
                remarks.append(f"in {len(rows)} of {total} rows: {listed(map(str, rows))}")
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


def listed(names: Iterable[str], shown: int = 5) -> str:
    """Return the first names and how many more there are: `a, b, c, d, e and 3 more`."""
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")


def refuse_rows(place: str, faults: Mapping[str, Sequence[int]], total: int) -> None:
    """Refuse a file for faults of its rows, if there are any; the arguments are those of `Problems.add_rows`.

    :raises UsageError: naming the rows.
    """
    problems = Problems()
    problems.add_rows(place, faults, total)
    problems.check(place)
