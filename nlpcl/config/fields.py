"""How a field of `RunSpec` is declared: what the package knows of it, and how its text on the command line is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nlpcl.errors import UsageError, suggest

Scenario = Literal["til", "dil", "cil"]
SCENARIOS: dict[str, str] = {"til": "task-incremental", "dil": "domain-incremental", "cil": "class-incremental"}


@dataclass(frozen=True, kw_only=True)
class SpecField:
    """The facts of a field of `RunSpec` beside its type, range, default and help.

    Every list of fields in the package is made from these, so a new field is declared in one place.

    :param flags: its options of `nlpcl run`, `sweep` and `tune`, the one in messages first; empty if it has none.
    :param read: makes a value of an option's text.
    :param settable: whether `--set` reaches the field, as a setting of training.
    :param engine: whether `ContinualStrategy` takes it as an argument.
    :param plain: the values that Avalanche's own strategies, which are no `ContinualStrategy`, accept; empty means all.
    :param cost: whether a run's seconds say nothing of a run with another value.
    :param compared: whether runs that are compared must agree in the field (`protocol`), each method has its own value
        (`method`), or runs are paired by it (`block`).
    :param text: whether runs on text have it and others do not.
    :param options_of: the field that names the strategy, backbone or benchmark whose options this one holds.
    """

    flags: tuple[str, ...] = ()
    read: Callable[[str], Any] = str
    settable: bool = False
    engine: bool = False
    plain: tuple[Any, ...] = ()
    cost: bool = False
    compared: Literal["protocol", "method", "block"] = "protocol"
    text: bool = False
    options_of: Literal["strategy", "backbone", "benchmark"] | None = None


def read_scenario(text: str) -> str:
    """Return `til` for `til`, `TIL`, `til_classification` and `task-incremental`; the other scenarios likewise.

    :raises UsageError: there is no such scenario.
    """
    word = text.lower().replace("_", "-").removesuffix("-classification")
    names = {name: name for name in SCENARIOS} | {words: name for name, words in SCENARIOS.items()}
    if word not in names:
        raise UsageError(f"unknown scenario {text!r}. {suggest(word, names)}")
    return names[word]


def read_number_or_names(text: str) -> int | str | list[str]:
    """Return a number for `3`, the text for `seed:7`, and otherwise the names between the commas."""
    try:
        return int(text)
    except ValueError:
        return text if text.startswith("seed:") else [name.strip() for name in text.split(",") if name.strip()]


def read_epochs(text: str) -> int | dict[str, int]:
    """Return a number for `5`, and numbers by task for `laptop=10,*=30`.

    :raises UsageError: the text is neither.
    """
    try:
        if "=" not in text:
            return int(text)
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        return {name.strip(): int(number) for name, _, number in pairs}
    except ValueError as error:
        raise UsageError(f"--epochs takes a number, or task=number,*=number, not {text!r}.") from error
