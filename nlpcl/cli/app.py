"""What all commands share: the application, the console, and how names and numbers are read."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from nlpcl.errors import UsageError, suggest
from nlpcl.registry import SCENARIOS

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


def scenario_of(text: str) -> str:
    """`til`, `til_classification`, `TIL`, `task-incremental` are one word."""
    word = text.lower().replace("_", "-").removesuffix("-classification")
    names = {"til": "til", "dil": "dil", "cil": "cil"} | {full: short for short, full in SCENARIOS.items()}
    if word not in names:
        raise UsageError(f"unknown scenario {text!r}. {suggest(word, names)}")
    return names[word]


def number_or_names(text: str) -> int | str | list[str]:
    """`3`, `seed:7`, or names joined by commas."""
    try:
        return int(text)
    except ValueError:
        return text if text.startswith("seed:") else [name.strip() for name in text.split(",") if name.strip()]


def quiet() -> None:
    """Keep the libraries' own bars and warnings out of ours."""
    import warnings

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="avalanche")
