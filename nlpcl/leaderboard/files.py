"""Read records from folders, choose among them, and list in what two differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nlpcl.errors import UsageError, about, fold, suggest
from nlpcl.records.record import Record

FILE = re.compile(r"record\.json|failed\.json|[0-9a-f]{16}\.json")
NO_VALUE = "(absent)"
_WIDTH = 100

Block = tuple[str, int]


@dataclass(frozen=True)
class Run:
    """A record with its path, its complete spec by dotted name, and its order and seed."""

    path: Path
    record: Record
    spec: dict[str, Any]
    block: Block

    @classmethod
    def load(cls, path: Path) -> Run:
        """:raises UsageError: the file is not a record that can be repeated."""
        return cls.of(path, Record.load(path))

    @classmethod
    def of(cls, path: Path, record: Record) -> Run:
        """:raises UsageError: the record, which lies there, cannot be repeated."""
        with about(str(path)):
            spec = record.run_spec()
        flat = flattened(spec.model_dump(mode="json", exclude={"spec_version"}))
        if spec.model_sha256 is not None:  # the same wherever it lay, and however its path was spelled
            flat["model"] = f"local {spec.model_sha256[:12]}"
        return cls(path, record, flat, (as_text(spec.order), spec.seed))

    @property
    def stream(self) -> tuple[str, ...]:
        """Return the benchmark and its tasks as they were learnt; empty if the record does not say."""
        tasks = self.record.data.get("tasks")
        names = [task.get("name") for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
        return (self.spec["benchmark"], *map(str, names)) if names else ()


def aligned(runs: Iterable[Run], every: Iterable[Run]) -> list[Run]:
    """Return the runs with one name for each order, however it was asked for: the published number, if any run has it.

    :param every: all runs that are to be paired.
    """
    numbers_last = sorted(every, key=lambda run: (not isinstance(run.spec["order"], int), run.block), reverse=True)
    names = {run.stream: run.block[0] for run in numbers_last if run.stream}
    return [
        run
        if isinstance(run.spec["order"], int)
        else replace(run, block=(names.get(run.stream, run.block[0]), run.block[1]))
        for run in runs
    ]


def record_files(folder: Path) -> list[Path]:
    """Return the paths below a folder that are named as records are, sorted."""
    return [path for path in sorted(folder.rglob("*.json")) if FILE.fullmatch(path.name)]


def read_runs(folder: Path) -> list[Run]:
    """Read all records below a folder, in order of path: `record.json`, `failed.json` and `<id>.json`.

    :raises UsageError: one of these files is not a record.
    """
    return [Run.load(path) for path in record_files(folder)]


def select_runs(
    names: Sequence[str], pool: Sequence[Run], where: Mapping[str, str] | None = None
) -> dict[str, list[Run]]:
    """Return the runs that each name stands for.

    :param names: `strategy`, `strategy@backbone`, a record or a folder of records.
    :param pool: runs among which strategies are looked up.
    :param where: keep only runs with these values, by field of the spec (`options.name` for an option).
    :raises UsageError: a name matches no record, two match the same, or there are fewer than two names.
    """
    if len(set(names)) < max(len(names), 2):
        raise UsageError("compare needs two or more different methods.")
    wanted = where or {}
    chosen: dict[str, list[Run]] = {}
    for name in names:
        runs = [
            run
            for run in _named(name, pool)
            if all(field in run.spec and as_text(run.spec[field]) == value for field, value in wanted.items())
        ]
        if not runs:
            fields = " and ".join(f"{field}={value}" for field, value in wanted.items())
            raise UsageError(f"no record of {name} has {fields}." if fields else f"{name} holds no record.")
        for other, known in chosen.items():
            if {run.path.resolve() for run in known} == {run.path.resolve() for run in runs}:
                raise UsageError(f"{other} and {name} are the same records: compare different methods.")
        chosen[name] = runs
    return chosen


def _named(name: str, pool: Sequence[Run]) -> list[Run]:
    strategy, _, backbone = name.partition("@")
    runs = [
        run
        for run in pool
        if fold(run.spec["strategy"]) == fold(strategy) and (not backbone or run.spec["backbone"] == backbone)
    ]
    path = Path(name)
    if runs:
        return runs
    if path.exists():
        return read_runs(path) if path.is_dir() else [Run.load(path)]
    known = {run.spec["strategy"] for run in pool} | {f"{run.spec['strategy']}@{run.spec['backbone']}" for run in pool}
    raise UsageError(f"there is no record of {name!r}, and no such file or folder. {suggest(name, known)}")


def flattened(content: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested dicts, joining names by dots. Empty dicts are dropped."""
    if not isinstance(content, dict):
        return {name: content}
    inner = (flattened(value, f"{name}.{key}" if name else str(key)) for key, value in content.items())
    return {key: value for part in inner for key, value in part.items()}


def as_text(value: Any) -> str:
    """Return a spec's value as the command line takes it; lists and dicts as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def signed(fraction: float, digits: int = 1) -> str:
    """Return a difference in percentage points, with its sign."""
    return f"{100 * fraction:+.{digits}f}".replace("-", "−")


def shortened(text: str, width: int = _WIDTH) -> str:
    """Return `text`, cut to fit into a sentence."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def under(name: str, fields: Iterable[str]) -> bool:
    """Return whether a dotted name is one of `fields` or inside one."""
    return any(name == field or name.startswith(f"{field}.") for field in fields)


def differing(a: Mapping[str, Any], b: Mapping[str, Any], ignore: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """Return name and both values, as text, of each field that differs, sorted by name."""
    ignored = tuple(ignore)
    names = [name for name in sorted({*a, *b}) if not under(name, ignored)]
    both = [(name, *(as_text(x[name]) if name in x else NO_VALUE for x in (a, b))) for name in names]
    return [(name, mine, other) for name, mine, other in both if mine != other]
