"""The exception for a user's mistake, its "did you mean", and how text is shown safely."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

NOT_BOTH = "--compile does not go with --gradient-checkpointing: leave one of them out."
"""torch cannot compile layers whose activations the backward pass computes again under a method's gates."""


class UsageError(ValueError):
    """A user's mistake, in one sentence that says what was wrong and what to do.

    The command line prints the sentence and exits with code 2, without a traceback.
    """

    of_one_process = False
    """False if all processes of a run have met the error, so that the first of each machine prints it."""


class OneProcessError(UsageError):
    """What one of several processes has met: each that meets it prints it."""

    of_one_process = True


class UsageErrors(UsageError):
    """Several mistakes in one message, so that a user need not start again for each.

    :param summary: a sentence that says how many there are, and where.
    :param problems: one sentence per mistake, without its full stop.
    """

    SHOWN = 20

    def __init__(self, summary: str, problems: Sequence[str]) -> None:
        self.summary = summary
        self.lines = ["".join(c if c.isprintable() else "\ufffd" for c in line) for line in problems[: self.SHOWN]]
        if len(problems) > self.SHOWN:
            self.lines.append(f"and {len(problems) - self.SHOWN} more")
        super().__init__(summary, problems)

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {line}" for line in self.lines)])


class Impossible(UsageError):
    """A combination of known strategy, scenario, benchmark and backbone that cannot run."""


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Begin the sentence of a UsageError from within by what it is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{subject}: {error}") from error


def fold(name: str) -> str:
    """Return a name without case, hyphens, underscores and blanks, and with p for +: `DER++` becomes `derpp`."""
    return "".join(c for c in name.lower().replace("+", "p") if c not in "-_ ")


def printable(text: str) -> str:
    """Return a text in one line, without the characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a sentence that offers the known names nearest to `word`, or lists them all."""
    names = sorted(known)
    by_fold = {fold(name): name for name in names}
    by_fold |= {fold(name.rpartition("/")[2]): name for name in reversed(names)}
    near = difflib.get_close_matches(fold(word), by_fold, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(dict.fromkeys(by_fold[n] for n in near)) + "?"
    return f"Known: {', '.join(names)}." if names else "None is known."
