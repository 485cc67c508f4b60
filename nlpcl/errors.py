"""The exception for a user's mistake, its "did you mean", and how text is shown safely."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

NOT_BOTH = "--compile does not go with --gradient-checkpointing: leave one of them out."
"""torch cannot compile layers whose activations the backward pass computes again under a method's gates."""
LONGEST_WORD, LONGEST_SENTENCE, LONGEST_LIST = 200, 380, 900
"""Most characters of what is printed on stderr: of a path or value, of a sentence, and of the known names after it."""


class UsageError(ValueError):
    """A user's mistake, in one sentence that says what was wrong and what to do.

    The command line prints the sentence and exits with code 2, without a traceback.
    """

    of_one_process = False
    """True if only one of several processes has met the error, so that this process must print it."""


class UsageErrors(UsageError):
    """Several mistakes in one message, so that a user need not start again for each.

    :param summary: a sentence that says how many there are, and where.
    :param problems: one sentence per mistake, without its full stop.
    """

    SHOWN = 20

    def __init__(self, summary: str, problems: Sequence[str]) -> None:
        self.summary = summary
        self.lines = [escaped(line) for line in problems[: self.SHOWN]]
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


def escaped(text: str) -> str:
    """Return a text in one line; what a terminal would obey or cannot show is written as in Python, as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable(text: str) -> str:
    """Return a text as `escaped` does, with one blank in place of blanks and line breaks."""
    return escaped(" ".join(text.split()))


def brief(sentence: str) -> str:
    """Return a sentence without the middle of a word or value that is too long to read; a list of names may be long.

    The exception keeps the whole sentence, for who needs it.
    """
    words = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _without_middle(word[0], LONGEST_WORD), sentence)
    said, known, names = words.partition("Known: ")
    return _without_middle(said, LONGEST_SENTENCE) + known + _without_middle(names, LONGEST_LIST)


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    start, end = most * 6 // 10, most * 3 // 10
    return f"{text[:start]}[...{len(text) - start - end:,} characters...]{text[-end:]}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a sentence that offers the known names nearest to `word`, or lists them all."""
    names = sorted(known)
    by_fold = {fold(name): name for name in names}
    by_fold |= {fold(name.rpartition("/")[2]): name for name in reversed(names)}
    near = difflib.get_close_matches(fold(word), by_fold, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(dict.fromkeys(by_fold[n] for n in near)) + "?"
    return f"Known: {', '.join(names)}." if names else "None is known."
