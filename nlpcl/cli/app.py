"""What all commands share: the application, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table
from typer.core import TyperCommand

from nlpcl.errors import UsageError, brief, escaped, printable


class _Command(TyperCommand):
    """A command that refuses an option given twice, of which the parser itself takes the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """:raises UsageError: an option that takes one value is given twice, maybe by two of its names."""
        seen = set()
        for option in self.make_parser(ctx).parse_args(list(args))[2]:
            of_one_value = not getattr(option, "multiple", False) and not getattr(option, "is_flag", False)
            if of_one_value and option.name in seen:
                raise UsageError(f"{' or '.join(option.opts)} is given twice: give it once.")
            seen.add(option.name)
        return super().parse_args(ctx, args)


class Commands(typer.Typer):
    """A group of commands."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Return the decorator that adds a function as a command."""
        return super().command(name, cls=_Command, **settings)


app = Commands(
    help="Continual learning for NLP, as an extension of Avalanche.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # All commands inherit these; `--bert_model` and `--bert-model` are one option.
    context_settings={
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
console = Console(markup=False)


def say(line: str) -> None:
    """Print a line on stdout, where names that are not ours can neither steer the terminal nor begin a new line."""
    print(escaped(line))


def warn(sentence: str, indent: str = "") -> None:
    """Print a sentence on stderr in the same way, and cut what is too long to read in it.

    :param indent: blanks before it.
    """
    print(f"{indent}{brief(printable(sentence))}", file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", figures: Sequence[str] = ()) -> Table:
    """Return a table of texts, which are escaped as in `say`.

    :param figures: the columns to align at the right.
    """
    heads = [Column(name, justify="right" if name in figures else "left", overflow="fold") for name in columns]
    made = Table(*heads, title=escaped(title) or None, title_justify="left", show_header=any(columns), show_edge=False)
    for row in rows:
        made.add_row(*map(escaped, row))
    return made


def quiet() -> None:
    """Silence the progress bars and warnings of the libraries."""
    import warnings

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="avalanche")
