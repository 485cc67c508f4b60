"""Check records and file them in the folder of results (docs/protocol.md)."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlpcl.config.files import fault
from nlpcl.config.resolve import check_repeatable
from nlpcl.config.spec import CompleteSpec
from nlpcl.errors import UsageError, about
from nlpcl.leaderboard.files import Run, aligned, as_text, differing, flattened, shortened
from nlpcl.records.record import Record
from nlpcl.registry import Regime, backbones, benchmarks, strategies

MOST_FILED_BYTES = 4 * 2**20
_LONGEST = 1000
# Unicode categories of characters that break lines, hide, or turn the direction of what follows them.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
FOREIGN = ("/", "~", ".", "\\")


class TaskFacts(BaseModel):
    """A task as a record describes it: its name, labels and numbers of examples."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100)
    labels: list[str] = Field(min_length=1)
    train: int = Field(ge=1)
    valid: int = Field(ge=0)
    test: int = Field(ge=1)


class DataFacts(BaseModel):
    """What a record says of the data that were read."""

    model_config = ConfigDict(strict=True)

    tasks: list[TaskFacts]
    files: dict[str, str] = {}
    encoder: dict[str, Any] | None = None


def add(paths: Sequence[Path], results: Path, *, replace: bool = False) -> list[tuple[Path, bool]]:
    """Check records and file copies of all of them, or none if one is refused.

    :param results: folder of results.
    :param replace: overwrite filed records of the same spec that have other results.
    :return: paths of the filed records, and whether each is new.
    :raises UsageError: a record is refused; nothing was written.
    """
    places: dict[Path, Run] = {}
    filed = []
    for path in paths:
        run = Run.of(path, checked(path))
        target = results / place_of(run.record)
        if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(results)):
            raise UsageError(f"{target} lies outside {results}, where a link leads: remove the link.")
        if target in places:
            fault = f"{path} and {places[target].path} are of one spec, with different content"
            _check_same(places[target].record, run.record, fault, "Keep one of them")
        exists = target.exists() and not replace
        if exists:
            fault = f"{target} exists with other content"
            _check_same(Record.load(target), run.record, fault, "Overwrite it with --replace")
        filed.append((target, not exists and target not in places))
        places[target] = run
    around = {near for target in places for near in target.parent.glob("*.json")} - set(places)
    known = []
    for path in sorted(around):
        with suppress(UsageError):  # what is no record is for `check` to report
            known.append(Run.load(path))
    for one, other in _twins([*known, *places.values()]):
        if other.path in paths:
            raise UsageError(f"{other.path} is refused: {_is_the_same_run(one)}")
    for target, new in filed:
        if new:
            places[target].record.save(target)
    return filed


def _check_same(known: Record, record: Record, fault: str, advice: str) -> None:
    different = differing(flattened(known.model_dump(mode="json")), flattened(record.model_dump(mode="json")))
    if different:
        name, old, new = different[0]
        raise UsageError(
            f"{fault}: {name} is {shortened(old)} and would be {shortened(new)}"
            f"{f' ({len(different)} fields differ)' if len(different) > 1 else ''}. {advice}."
        )


def _twins(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Yield pairs of records of one run under two ids, whose specs say the same in other words."""
    known: dict[str, Run] = {}
    for run in aligned(runs, runs):
        spec = {name: value for name, value in run.spec.items() if name != "order"}
        one = known.setdefault(as_text([spec, run.block]), run)
        if one.record.id != run.record.id:
            yield one, run


def _is_the_same_run(run: Run) -> str:
    return f"{run.path} is the same run, asked for in other words: keep one of them."


def check(results: Path) -> tuple[int, list[str]]:
    """Check that a folder of results holds sound records in their places, and nothing else.

    :return: number of files, and a sentence on each that is wrong.
    :raises UsageError: there is no such folder.
    """
    if not results.is_dir():
        raise UsageError(f"there is no folder {results}.")
    entries = (path for path in results.rglob("*") if path.is_symlink() or not path.is_dir())
    paths = sorted(path for path in entries if path.name != ".gitkeep")
    problems, sound = [], []
    for path in paths:
        try:
            if path.is_symlink() or path.suffix != ".json":
                raise UsageError(f"{path} is not a record's file: remove it.")
            record = checked(path)
            place = place_of(record)
            if path.relative_to(results) != place:
                raise UsageError(f"{path} must lie at {results / place}, as its spec says.")
            if path.read_bytes() != record.content():
                raise UsageError(f"{path} is not as nlpcl writes it: remove it and file the record once more.")
            sound.append(Run.of(path, record))
        except UsageError as error:
            problems.append(str(error))
    problems += [f"{other.path}: {_is_the_same_run(one)}" for one, other in _twins(sound)]
    return len(paths), problems


def place_of(record: Record) -> Path:
    """Return the path of a checked record in the folder of results: benchmark/scenario/backbone/strategy/<id>.json."""
    spec = record.spec
    return Path(spec["benchmark"], spec["scenario"], spec["backbone"], spec["strategy"], f"{record.id}.json")


def checked(path: Path) -> Record:
    """Read a record and check all that can be checked without repeating the run.

    :raises UsageError: the record is refused; the message names the file and what is wrong.
    """
    record = Record.load(path, MOST_FILED_BYTES)
    with about(f"{path} is refused"):
        if record.status != "ok":
            raise UsageError(f"the run failed ({shortened(record.error or '')!r}).")
        _check_text(record)
        spec = record.run_spec()
        if spec.id != record.id:
            raise UsageError("its spec does not repeat to the same id: it was not written by nlpcl run.")
        check_repeatable(spec)
        model = spec.model or ""
        is_local = spec.model_sha256 is not None and not backbones.get(spec.backbone).words
        if is_local or model.startswith(FOREIGN) or ":" in model or "\\" in model:
            raise UsageError(
                f"its model {shortened(model)!r} is a folder of one machine: use one that others can load."
            )
        _check_tasks(spec, check_data(record))
        _check_measured_cells(spec, strategies.get(spec.strategy).protocol, record)
        if len(record.content()) > MOST_FILED_BYTES:
            raise UsageError(f"filed it would be larger than {MOST_FILED_BYTES // 2**20} MiB.")
    return record


def _strings(content: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a JSON document, keys too, after its place."""
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
            raise UsageError(f"a text in {shortened(ascii(where))} has the control character U+{ord(hidden):04X}.")
        if len(text) > _LONGEST:
            raise UsageError(f"a text in {shortened(where)} is longer than {_LONGEST} characters.")


def check_data(record: Record) -> list[TaskFacts]:
    """Check what a record says of the data that were read, on which every comparison relies, and return its tasks.

    :return: tasks in the order they were learnt.
    :raises UsageError: tasks, files or encoder are not described as a run describes them, or the number of tasks is
        not that of the matrices' rows.
    """
    try:
        tasks = DataFacts.model_validate(record.data).tasks
    except ValidationError as error:
        raise UsageError(f"data.{fault(error)}.") from error
    names = [task.name for task in tasks]
    if len(names) != len(record.matrices.accuracy) or len(set(names)) < len(names):
        raise UsageError(
            f"data.tasks must name each of the {len(record.matrices.accuracy)} tasks once, not {shortened(str(names))}."
        )
    return tasks


def _check_tasks(spec: CompleteSpec, tasks: list[TaskFacts]) -> None:
    names = [task.name for task in tasks]
    wanted = spec.tasks if isinstance(spec.tasks, list) else names
    if set(wanted) != set(names) or (isinstance(spec.tasks, int) and spec.tasks != len(names)):
        raise UsageError(
            f"its spec asks for tasks {shortened(str(spec.tasks))}, its data are of {shortened(str(names))}."
        )
    _check_order(spec, names)
    for task in tasks:
        spec.epochs_for(task.name)
        if spec.train_size is not None and task.train > spec.train_size:
            raise UsageError(
                f"its spec allows {spec.train_size} training examples a task, {task.name} had {task.train}."
            )


def _check_order(spec: CompleteSpec, names: list[str]) -> None:
    """Check that the tasks come as the order says: by its names, or by its number among the published orders."""
    benchmark = benchmarks.get(spec.benchmark)
    published = [orders for key, orders in _published().items() if key.partition("_")[0] == benchmark.name]
    fitting = [orders for orders in published if set(names) <= set(orders[0])]
    if published and not fitting and benchmark.modality == "text":
        raise UsageError(f"{benchmark.name} has no tasks {shortened(str(names))}.")
    if isinstance(spec.order, str):  # a random order
        return
    asked_for = [spec.order] if isinstance(spec.order, list) else [orders[spec.order] for orders in fitting]
    wanted = [_chosen(order, spec.tasks) for order in asked_for]
    if wanted and names not in wanted:
        asked = f"{shortened(as_text(spec.order))}, with tasks {shortened(str(wanted[0]))}"
        raise UsageError(f"its spec asks for the order {asked}; its data are of {shortened(str(names))}.")


def _chosen(order: list[str], tasks: int | list[str] | None) -> list[str]:
    return order[:tasks] if not isinstance(tasks, list) else [name for name in order if name in tasks]


@cache
def _published() -> dict[str, list[list[str]]]:
    return dict(json.loads((files("nlpcl.benchmarks._files") / "orders.json").read_text("utf-8")))


def _check_measured_cells(spec: CompleteSpec, regime: Regime, record: Record) -> None:
    """Check that the matrices hold a score in every cell that such a run measures, and in no other."""
    n, matrices, seconds = len(record.matrices.accuracy), record.matrices, record.measured.seconds
    if len(seconds.train) > n or len(seconds.evaluate) > n + 1:
        raise UsageError(f"it tells the seconds of more than {n} tasks.")
    for name in ("accuracy", "macro_f1"):
        for i, row in enumerate(getattr(matrices, name)):
            for j, cell in enumerate(row):
                if (cell is not None) != measured(i, j, n, regime, spec.eval):
                    kind = "is missing" if cell is None else "cannot have been measured"
                    raise UsageError(
                        f"{name} of task {j + 1} after task {i + 1} {kind}: {spec.strategy} ({regime}) was run with "
                        f"--eval {spec.eval}."
                    )
    has_initial = matrices.initial is not None and None not in matrices.initial
    if has_initial != (regime == "continual" and spec.eval == "full"):
        raise UsageError("scores before the first task (initial) belong to --eval full, and to all tasks there.")


def measured(row: int, column: int, tasks: int, regime: Regime, evaluate: str) -> bool:
    """Return whether a run tests task `column` after task `row`; see `nlpcl.runs.fit.fit`."""
    if regime == "isolated":
        return row == column
    if regime == "joint" or evaluate == "final":
        return row == tasks - 1
    return evaluate == "full" or column <= row
