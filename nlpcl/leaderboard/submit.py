"""A record's way into the folder of results: what is checked, and where it is filed (docs/protocol.md)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nlpcl.errors import UsageError
from nlpcl.leaderboard.files import differing, flattened, short
from nlpcl.records import Record
from nlpcl.registry import Regime, backbones, benchmarks, check_combination, strategies
from nlpcl.spec import RunSpec

MOST_BYTES = 4 * 2**20
LONGEST = 1000
# Characters that break lines, hide, or turn the direction of what follows them.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
FOREIGN = ("/", "~", ".", "\\")


class Sizes(BaseModel):
    """A task as a record describes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100)
    labels: list[str] = Field(min_length=1)
    train: int = Field(ge=1)
    valid: int = Field(ge=0)
    test: int = Field(ge=1)


TASKS = TypeAdapter(list[Sizes])


def add(path: Path, results: Path, *, replace: bool = False) -> tuple[Path, bool]:
    """Check a record and file it; the file itself stays where it is.

    :param results: the folder of results.
    :param replace: overwrite a record of the same spec with other results.
    :return: where it lies, and whether that is new.
    :raises UsageError: the record is refused; nothing was written.
    """
    record = checked(path)
    target = results / place_of(record)
    if target.exists() and not replace:
        known = Record.load(target)
        different = differing(flattened(known.model_dump(mode="json")), flattened(record.model_dump(mode="json")))
        if different:
            name, there, here = different[0]
            raise UsageError(
                f"{target} is there with other content: {name} is {short(there)} and would be {short(here)}"
                f"{f' ({len(different)} fields differ)' if len(different) > 1 else ''}. Overwrite it with --replace."
            )
        return target, False
    record.save(target)
    return target, True


def check(results: Path) -> tuple[int, list[str]]:
    """Check a folder of results: each file a sound record in its place, and nothing else there.

    :return: number of files, and a sentence for each that is wrong.
    :raises UsageError: there is no such folder.
    """
    if not results.is_dir():
        raise UsageError(f"there is no folder {results}.")
    files = sorted(path for path in results.rglob("*") if not path.is_dir() and path.name != ".gitkeep")
    problems = []
    for path in files:
        try:
            if path.is_symlink() or path.suffix != ".json":
                raise UsageError(f"{path} is not a record's file: remove it.")
            place = place_of(checked(path))
            if path.relative_to(results) != place:
                raise UsageError(f"{path} must lie at {results / place}, as its spec says.")
        except UsageError as error:
            problems.append(str(error))
    return len(files), problems


def place_of(record: Record) -> Path:
    """Where a checked record belongs: benchmark, scenario, backbone and strategy as folders, the spec's id as name."""
    spec = record.spec
    return Path(spec["benchmark"], spec["scenario"], spec["backbone"], spec["strategy"], f"{record.id}.json")


def checked(path: Path) -> Record:
    """Read a record and check all that can be checked without the run.

    :raises UsageError: naming the file and what is wrong with it.
    """
    check_size(path)
    record = Record.load(path)
    try:
        if record.status != "ok":
            raise UsageError(f"the run failed ({short(record.error or '')!r}).")
        _check_text(record)
        spec = record.run_spec()
        if spec.id != record.id:
            raise UsageError("its spec does not repeat to the same id: it was not written by nlpcl run.")
        regime = _check_names(spec)
        _check_tasks(spec, record)
        _check_measured_cells(spec, regime, record)
    except UsageError as error:
        raise UsageError(f"{path} is refused: {error}") from error
    return record


def check_size(path: Path) -> None:
    """:raises UsageError: the file cannot be read, or is larger than `MOST_BYTES`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}).") from error
    if size > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES // 2**20} MiB: the results take no such record.")


def _strings(content: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON document, keys too, with its place."""
    if isinstance(content, str):
        yield where, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield where or "the record", key
            yield from _strings(value, f"{where}.{key}" if where else key)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, where)


def _check_text(record: Record) -> None:
    for where, text in _strings(record.model_dump(mode="json")):
        hidden = next((c for c in text if unicodedata.category(c) in UNSEEN), None)
        if hidden is not None:
            raise UsageError(f"a text in {short(ascii(where))} has the control character U+{ord(hidden):04X}.")
        if len(text) > LONGEST:
            raise UsageError(f"a text in {short(where)} is longer than {LONGEST} characters.")
    model = record.spec.get("model")
    if isinstance(model, str) and (model.startswith(FOREIGN) or ":" in model or "\\" in model):
        raise UsageError(f"its model {short(model)!r} is a folder of one machine: use a name that others can load.")


def _check_names(spec: RunSpec) -> Regime:
    """All names are those of the package, as it writes them; so they are safe as names of folders."""
    strategy, benchmark = strategies.get(spec.strategy), benchmarks.get(spec.benchmark)
    backbone = backbones.get(str(spec.backbone))
    for entry, name in ((strategy, spec.strategy), (benchmark, spec.benchmark), (backbone, spec.backbone)):
        if entry.name != name:
            raise UsageError(f"{name} is called {entry.name}.")
    check_combination(strategy, benchmark, backbone, spec.scenario)
    return strategy.protocol


def tasks_of(record: Record) -> list[Sizes]:
    """The record's tasks, in the order they were learnt.

    :raises UsageError: they are not described, or not one for each row of the matrices.
    """
    try:
        tasks = TASKS.validate_python(record.data.get("tasks"))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, ('data.tasks', *first['loc'])))}: {first['msg']}.") from error
    names = [task.name for task in tasks]
    if len(names) != len(record.matrices.accuracy) or len(set(names)) < len(names):
        raise UsageError(
            f"data.tasks must name each of the {len(record.matrices.accuracy)} tasks once, not {short(str(names))}."
        )
    return tasks


def _check_tasks(spec: RunSpec, record: Record) -> None:
    tasks = tasks_of(record)
    names = [task.name for task in tasks]
    wanted = spec.tasks if isinstance(spec.tasks, list) else names
    if set(wanted) != set(names) or (isinstance(spec.tasks, int) and spec.tasks != len(names)):
        raise UsageError(f"its spec asks for tasks {short(str(spec.tasks))}, its data are of {short(str(names))}.")
    if isinstance(spec.order, list) and [name for name in spec.order if name in names] != names:
        raise UsageError(f"its spec asks for the order {short(str(spec.order))}, its data are {short(str(names))}.")
    for task in tasks:
        spec.epochs_for(task.name)
        if spec.train_size is not None and task.train > spec.train_size:
            raise UsageError(
                f"its spec allows {spec.train_size} training examples a task, {task.name} had {task.train}."
            )


def _check_measured_cells(spec: RunSpec, regime: Regime, record: Record) -> None:
    """The matrices hold a score in every cell that such a run measures, and in no other."""
    n, matrices = len(record.matrices.accuracy), record.matrices
    for name in ("accuracy", "macro_f1"):
        for i, row in enumerate(getattr(matrices, name)):
            for j, cell in enumerate(row):
                if (cell is not None) != measured(i, j, n, regime, str(spec.eval)):
                    kind = "is missing" if cell is None else "cannot have been measured"
                    raise UsageError(
                        f"{name} of task {j + 1} after task {i + 1} {kind}: {spec.strategy} ({regime}) was run with "
                        f"--eval {spec.eval}."
                    )
    has_initial = matrices.initial is not None and None not in matrices.initial
    if has_initial != (regime == "continual" and spec.eval == "full"):
        raise UsageError("scores before the first task (initial) belong to --eval full, and to all tasks there.")


def measured(row: int, column: int, tasks: int, regime: Regime, evaluate: str) -> bool:
    """Whether a run tests task `column` after task `row`; see `nlpcl.experiment.fit`."""
    if regime == "isolated":
        return row == column
    if regime == "joint":
        return row == tasks - 1
    if evaluate == "final":
        return row == tasks - 1
    return evaluate == "full" or column <= row
