"""What all commands share: the application, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Column, Table

from nlpcl.errors import brief, escaped, printable

app = typer.Typer(
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
    made = Table(*heads, title=escaped(title) or None, title_justify="left", show_header=any(columns))
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
