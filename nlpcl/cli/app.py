"""What all commands share: the application and the console."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

# `--bert_model` and `--bert-model` are one option.
NAMES: Any = {"token_normalize_func": lambda name: name.replace("_", "-"), "help_option_names": ["-h", "--help"]}
app = typer.Typer(
    help="Continual learning for NLP, as an extension of Avalanche.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=NAMES,
)
console = Console(markup=False)
DataRoot = Annotated[
    str | None, typer.Option("--data-root", "--data-dir", envvar="NLPCL_DATA", help="Folder with the data.")
]


def quiet() -> None:
    """Silence the progress bars and warnings of the libraries."""
    import warnings

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="avalanche")
