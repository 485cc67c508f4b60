"""A grid of runs: options of `nlpcl run` with several values each, from a command line or a TOML file."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpcl.config.arguments import FIELDS, Request
from nlpcl.errors import UsageError, suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RANGE = re.compile(r"(seed:)?(\d+)-(\d+)")
NUMBERS = re.compile(r"(seed:)?\d+(-\d+)?")
# What names tasks takes several joined by commas, which are one value.
OF_TASKS = ("order", "tasks", "epochs")
MOST = 100_000


def values_of(name: str, given: Any) -> list[str]:
    """The values that an option is given, each as `nlpcl run` takes it.

    `a,b` are two, `0-4` five, `seed:0-4` five random orders. Names of tasks joined by commas are one value, as is JSON
    in brackets or quotes. In a list each entry is read so.

    :param given: a text, a number, or a list of them.
    :raises UsageError: a range that runs backwards or is too long.
    """
    if isinstance(given, list):
        return [text for item in given for text in values_of(name, item)]
    if not isinstance(given, str):
        return [json.dumps(given)]
    parts = [part.strip() for part in given.split(",")]
    of_tasks = name in OF_TASKS and not all(NUMBERS.fullmatch(part) for part in parts)
    if of_tasks or given.startswith(("[", "{", '"')):
        return [given]
    return [text for part in parts for text in _numbers(name, part)]


def _numbers(name: str, part: str) -> list[str]:
    """The whole numbers of a range; what is none stands for itself."""
    found = None if name == "model" else RANGE.fullmatch(part)
    if found is None:
        return [part]
    prefix, first, last = found[1] or "", int(found[2]), int(found[3])
    if not first <= last < first + MOST:
        raise UsageError(f"{name} cannot range over {part}: it takes first-last, at most {MOST:,} numbers.")
    return [f"{prefix}{number}" for number in range(first, last + 1)]


def _plain(item: Any) -> bool:
    """Whether a value of TOML can be an option's: a text, a truth value or a number, of the 64 bits that TOML has."""
    return isinstance(item, (str, float)) or (isinstance(item, int) and abs(item) < 2**63)


@dataclass(frozen=True)
class Grid:
    """Every value of one option with every value of the others.

    :param fields: by field of the spec what it is given, as `values_of` reads it.
    :param assign: the same by name of an option of `--set`.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    assign: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def asked(cls, request: Request) -> Grid:
        """The grid of a command line whose options may have several values each.

        :raises UsageError: a `--set` is not name=value, or one name comes twice.
        """
        return cls(request.fields, request.assigned())

    @classmethod
    def read(cls, path: Path) -> list[Grid]:
        """The grids of a TOML file: each `[[grid]]` with what stands above them all; without any, the whole file.

        :raises UsageError: it cannot be read, is not TOML, or an option is unknown.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:  # beside its own, those of a number that is too long
            raise UsageError(f"{path} is not TOML: {error}.") from error
        tables = content.pop("grid", [{}])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UsageError(f"{path}: a grid starts with [[grid]], in two brackets.")
        common = cls._of_table(path, content)
        return [common.with_more(cls._of_table(path, table)) for table in tables]

    @classmethod
    def _of_table(cls, path: Path, table: Mapping[str, Any]) -> Grid:
        fields = {name.replace("-", "_"): value for name, value in table.items()}
        assign = fields.pop("set", {})
        for name in fields:
            if name not in FIELDS:
                raise UsageError(f"{path}: a grid has no option {name!r}. {suggest(name, [*FIELDS, 'set', 'grid'])}")
        if not isinstance(assign, dict):
            raise UsageError(f"{path}: set holds options by name, as set.lamb = [0.5, 1].")
        for name, given in (*fields.items(), *assign.items()):
            if not all(_plain(item) for item in (given if isinstance(given, list) else [given])):
                raise UsageError(f"{path}: {name} takes a value or a list of values, each as on the command line.")
        return cls(fields, assign)

    def with_more(self, other: Grid) -> Grid:
        """This grid, with what `other` says in the place of its own."""
        return Grid({**self.fields, **other.fields}, {**self.assign, **other.assign})

    def requests(self) -> Iterator[Request]:
        """Its runs.

        :raises UsageError: an option has no value, or there are too many runs.
        """
        axes = [(name, values_of(name, given)) for name, given in (*self._ordered(), *self.assign.items())]
        for name, texts in axes:
            if not texts:
                raise UsageError(f"{name} has no value: give it one, or leave it out.")
        if math.prod(len(texts) for _, texts in axes) > MOST:
            raise UsageError(f"a grid has at most {MOST:,} runs.")
        return self._product(axes)

    def _product(self, axes: Sequence[tuple[str, list[str]]]) -> Iterator[Request]:
        names, n = [name for name, _ in axes], len(self.fields)
        for texts in itertools.product(*(texts for _, texts in axes)):
            pairs = tuple(f"{name}={text}" for name, text in zip(names[n:], texts[n:], strict=True))
            yield Request(dict(zip(names[:n], texts[:n], strict=True)), pairs)

    def _ordered(self) -> list[tuple[str, Any]]:
        """Methods first, orders and seeds last, so that one method after another is complete."""
        names = sorted((name for name in FIELDS if name in self.fields), key=lambda name: name in ("order", "seed"))
        return [(name, self.fields[name]) for name in names]
