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
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from nlpcl.config.arguments import Request
from nlpcl.config.files import check_plain
from nlpcl.config.spec import FIELDS, RunSpec
from nlpcl.errors import UsageError, suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_RANGE = re.compile(r"(seed:)?(\d+)-(\d+)")
_NUMBERS = re.compile(r"(seed:)?\d+(-\d+)?")
# By field with a flag the types of its value, a list or dict without what is in it.
_KINDS = {
    name: {get_origin(part) or part for part in get_args(hint | None)}
    for name, hint in get_type_hints(RunSpec).items()
    if name in FIELDS and FIELDS[name].flags
}
_MOST = 100_000


def values_of(name: str, given: Any) -> list[str]:
    """Return the values of an option, each as `nlpcl run` takes it.

    `a,b` are two, `0-4` five, `seed:0-4` five random orders. Names of tasks joined by commas are one value, as is JSON
    in brackets or quotes. Each entry of a list is read in the same way.

    :param given: a text, a number, or a list of them.
    :raises UsageError: a range that runs backwards or is too long.
    """
    if isinstance(given, list):
        return [text for item in given for text in values_of(name, item)]
    if not isinstance(given, str):
        return [json.dumps(given)]
    parts = [part.strip() for part in given.split(",")]
    of_tasks = _KINDS.get(name, set()) & {list, dict} and not all(_NUMBERS.fullmatch(part) for part in parts)
    if of_tasks or given.startswith(("[", "{", '"')):
        return [given]
    return [text for part in parts for text in _numbers(name, part)]


def _numbers(name: str, part: str) -> list[str]:
    """Return the whole numbers of a range, or the text itself if it is no range or the option takes only texts."""
    found = None if _KINDS.get(name, {int}) <= {str, NoneType} else _RANGE.fullmatch(part)
    if found is None:
        return [part]
    prefix, first, last = found[1] or "", int(found[2]), int(found[3])
    if not first <= last < first + _MOST:
        raise UsageError(f"{name} cannot range over {part}: it takes first-last, at most {_MOST:,} numbers.")
    return [f"{prefix}{number}" for number in range(first, last + 1)]


def _plain(item: Any) -> bool:
    """Return whether a TOML value can be an option: a text, a truth value or a number of at most 64 bits."""
    return isinstance(item, (str, float)) or (isinstance(item, int) and abs(item) < 2**63)


@dataclass(frozen=True)
class Grid:
    """Every value of one option with every value of the others.

    :param fields: values by field of the spec, as `values_of` reads them.
    :param assign: values by option of `--set`.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    assign: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> list[Grid]:
        """Return the grids of a TOML file: each `[[grid]]` with the options above the first, or else the whole file.

        :raises UsageError: it cannot be read, is not TOML, or an option is unknown.
        """
        check_plain(path)
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
            if name not in _KINDS:
                raise UsageError(f"{path}: a grid has no option {name!r}. {suggest(name, [*_KINDS, 'set', 'grid'])}")
        if not isinstance(assign, dict):
            raise UsageError(f"{path}: set holds options by name, as set.lamb = [0.5, 1].")
        for name, given in (*fields.items(), *assign.items()):
            if not all(_plain(item) for item in (given if isinstance(given, list) else [given])):
                raise UsageError(f"{path}: {name} takes a value or a list of values, each as on the command line.")
        return cls(fields, assign)

    def with_more(self, other: Grid) -> Grid:
        """Return this grid with the values of `other`, which win."""
        return Grid({**self.fields, **other.fields}, {**self.assign, **other.assign})

    def requests(self) -> Iterator[Request]:
        """Yield the runs of the grid.

        :raises UsageError: an option has no value.
        """
        axes = ([(name, text) for text in texts] for name, texts in self._axes())
        for choice in itertools.product(*axes):
            fields, assigned = choice[: len(self.fields)], choice[len(self.fields) :]
            yield Request(dict(fields), tuple(f"{name}={text}" for name, text in assigned))

    def size(self) -> int:
        """Return the number of runs.

        :raises UsageError: an option has no value.
        """
        return math.prod(len(texts) for _, texts in self._axes())

    def _axes(self) -> list[tuple[str, list[str]]]:
        fields = [name for name in FIELDS if name in self.fields]
        fields.sort(key=lambda name: FIELDS[name].compared == "block")  # so one method after another is complete
        axes = [(name, values_of(name, self.fields[name])) for name in fields]
        axes += [(name, values_of(name, given)) for name, given in self.assign.items()]
        for name, texts in axes:
            if not texts:
                raise UsageError(f"{name} has no value: give it one, or leave it out.")
        return axes


def requests_of(grids: Sequence[Grid]) -> Iterator[Request]:
    """Yield the runs of several grids.

    :raises UsageError: an option has no value, or there are too many runs.
    """
    runs = sum(grid.size() for grid in grids)
    if runs > _MOST:
        raise UsageError(f"a sweep has at most {_MOST:,} runs, and these grids have more: {runs:.6g}.")
    return (request for grid in grids for request in grid.requests())
