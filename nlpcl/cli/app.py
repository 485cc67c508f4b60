"""What all commands share: the application and the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Column, Table

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


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", figures: Sequence[str] = ()) -> Table:
    """Return a table of texts.

    :param figures: the columns to align at the right.
    """
    heads = [Column(name, justify="right" if name in figures else "left", overflow="fold") for name in columns]
    made = Table(*heads, title=title or None, title_justify="left", show_header=any(columns), show_edge=False)
    for row in rows:
        made.add_row(*row)
    return made


def quiet() -> None:
    """Silence the progress bars and warnings of the libraries."""
    import warnings

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="avalanche")
