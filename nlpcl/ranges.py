"""Ranges of numbers, as the types of options and spec fields, and how such types read in words.

A number out of its range is refused before anything is trained. Upper bounds are far above what anyone trains with:
beyond them numbers overflow or memory runs out.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field


@dataclass(frozen=True)
class Since:
    """Marks a spec field or an option that came after the first records: `Annotated[int, Since(2)]`.

    Left at its default it is not stored, so that the ids of older records stay. Its default must never change.

    :param version: the `spec_version` of a spec that stores it.
    """

    version: int


Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""A number of examples, steps or epochs."""
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000)]
"""A number of something that 0 leaves out."""
Width = Annotated[int, Field(ge=1, le=16_384)]
"""Number of units of a layer."""
Few = Annotated[int, Field(ge=1, le=100)]
"""Number of parts that cost much each: capsules, heads of an attention."""
Length = Annotated[int, Field(ge=1, le=512)]
"""Number of positions of a text."""
Layers = Annotated[int, Field(ge=0, le=100)]
"""Number of layers."""
Weight = Annotated[float, Field(ge=0, le=1e12)]
"""Factor on a term of the loss; 0 leaves it out."""
Positive = Annotated[float, Field(gt=0, le=1e12)]
"""A divisor."""
Rate = Annotated[float, Field(ge=0, le=1000)]
"""Learning rate of a part of the model; 0 freezes the part."""
LearningRate = Annotated[float, Field(gt=0, le=1000)]
"""Learning rate of a run."""
Temperature = Annotated[float, Field(ge=0.001, le=1000)]
"""Temperature of a softmax."""
Scale = Annotated[float, Field(ge=1, le=1_000_000)]
"""Largest scale s of the gates, whose scale rises from 1 / s to s."""
Mean = Annotated[float, Field(ge=-1000, le=1000)]
"""Mean of initial values."""
Spread = Annotated[float, Field(ge=0, le=1000)]
"""Standard deviation of initial values."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A share, 0 and 1 included."""
SomeShare = Annotated[float, Field(gt=0, le=1)]
"""A share above 0."""
NotAll = Annotated[float, Field(ge=0, lt=1)]
"""A share below 1: a dropout, a momentum."""
Between = Annotated[float, Field(gt=0, lt=1)]
"""A share above 0 and below 1."""
Examples = Annotated[int, Field(ge=1, le=10**9)]
"""Number of examples."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed of a random number generator."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    Any: "anything",
}
_LIMITS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


def in_words(annotation: Any) -> str:
    """Return a type as a reader would say it: `a number from 0 to 1`, `one of cnn, gru`."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        marks = [mark for field in parts[1:] for mark in getattr(field, "metadata", ())]
        bounds = {name: getattr(mark, name) for mark in marks for name in _LIMITS if hasattr(mark, name)}
        if "ge" in bounds and "le" in bounds:
            limits = f"from {_shown(bounds['ge'])} to {_shown(bounds['le'])}"
        else:
            limits = " and ".join(f"{word} {_shown(bounds[name])}" for name, word in _LIMITS.items() if name in bounds)
        return f"{in_words(parts[0])} {limits}".rstrip()
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        *first, last = map(in_words, parts)
        return f"{', '.join(first)} or {last}"
    if origin is dict:
        return "values by name" + ("" if parts[1] is Any else f" (each {in_words(parts[1])})")
    if origin is not None and parts:
        return f"a list (each {in_words(parts[0])})"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _shown(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
