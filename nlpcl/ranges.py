"""Ranges of numbers, as types that the signatures of strategies and backbones name, and types in words.

A number that is an option says here what it may be, so that a wrong one is refused before anything is trained. Upper
bounds are far beyond what anyone trains with: above them numbers overflow or memory ends.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field


@dataclass(frozen=True)
class Since:
    """Marks a field of the spec, or an option, that came after the first records, as `Annotated[int, Since(2)]`.

    Left at its default it is not stored, so that the ids of older records stay. Its default must never change.

    :param version: the version of the spec that a spec in which it is stored has.
    """

    version: int


Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many: examples, steps, epochs."""
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000)]
"""How many, where 0 leaves something out."""
Width = Annotated[int, Field(ge=1, le=16_384)]
"""Units of a layer."""
Few = Annotated[int, Field(ge=1, le=100)]
"""Parts of which each costs much: capsules, heads of an attention."""
Length = Annotated[int, Field(ge=1, le=512)]
"""Positions of a text."""
Layers = Annotated[int, Field(ge=0, le=100)]
"""How many layers."""
Weight = Annotated[float, Field(ge=0, le=1e12)]
"""Factor of a term of the loss; 0 leaves it out."""
Positive = Annotated[float, Field(gt=0, le=1e12)]
"""What something is divided by."""
Rate = Annotated[float, Field(ge=0, le=1000)]
"""Learning rate of a part; 0 holds it where it is."""
LearningRate = Annotated[float, Field(gt=0, le=1000)]
"""Learning rate of a run."""
Temperature = Annotated[float, Field(ge=0.001, le=1000)]
"""Of a softmax."""
Scale = Annotated[float, Field(ge=1, le=1_000_000)]
"""Largest scale s of the gates, which rises from 1 / s."""
Mean = Annotated[float, Field(ge=-1000, le=1000)]
"""Mean of initial values."""
Spread = Annotated[float, Field(ge=0, le=1000)]
"""Standard deviation of initial values."""
Share = Annotated[float, Field(ge=0, le=1)]
"""Part of a whole."""
SomeShare = Annotated[float, Field(gt=0, le=1)]
"""Part of a whole, not nothing."""
NotAll = Annotated[float, Field(ge=0, lt=1)]
"""Part of a whole, not all: a dropout, a momentum."""
Between = Annotated[float, Field(gt=0, lt=1)]
"""Part of a whole, neither nothing nor all."""
Examples = Annotated[int, Field(ge=1, le=10**9)]
"""How many examples."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed of a generator of random numbers."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    Any: "anything",
}
LIMITS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


def since(metadata: Iterable[Any]) -> Since | None:
    """The mark among a type's metadata, or None."""
    return next((mark for mark in metadata if isinstance(mark, Since)), None)


def in_words(annotation: Any) -> str:
    """A type as a reader would say it: `a number from 0 to 1`, `one of cnn, gru`."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return " ".join([in_words(parts[0]), *_range(parts[1:])])
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        *first, last = map(in_words, parts)
        return f"{', '.join(first)} or {last}"
    if origin is dict:
        return "values by name" + ("" if parts[1] is Any else f" (each {in_words(parts[1])})")
    if origin is not None and parts:
        return f"a list (each {in_words(parts[0])})"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range(metadata: Iterable[Any]) -> list[str]:
    marks = [mark for field in metadata for mark in getattr(field, "metadata", ())]
    bounds = {name: getattr(mark, name) for mark in marks for name in LIMITS if hasattr(mark, name)}
    if "ge" in bounds and "le" in bounds:
        return [f"from {_shown(bounds['ge'])} to {_shown(bounds['le'])}"]
    found = [f"{word} {_shown(bounds[name])}" for name, word in LIMITS.items() if name in bounds]
    return [" and ".join(found)] if found else []


def _shown(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
