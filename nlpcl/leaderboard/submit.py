"""Check records and file them in the folder of results (docs/protocol.md)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nlpcl.config.encoders import MINILM, is_hub_name
from nlpcl.config.resolve import check_repeatable
from nlpcl.config.spec import CompleteSpec
from nlpcl.errors import UsageError, about
from nlpcl.leaderboard.claims import check_claims
from nlpcl.leaderboard.files import Run, aligned, as_text, differing, flattened, shortened
from nlpcl.records.record import Record
from nlpcl.registry import backbones

MOST_FILED_BYTES = 4 * 2**20
_LONGEST = 1000
# Unicode categories of characters that break lines, hide, or turn the direction of what follows them.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
FOREIGN = ("/", "~", ".", "\\")


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
            f"{fault}: {name} is {shortened(old, 30)} and would be {shortened(new, 30)}"
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
        _check_model(spec)
        check_repeatable(spec)
        check_claims(spec, record)
        if len(record.content()) > MOST_FILED_BYTES:
            raise UsageError(f"filed it would be larger than {MOST_FILED_BYTES // 2**20} MiB.")
    return record


def _check_model(spec: CompleteSpec) -> None:
    """Refuse an encoder in a folder, and a file of word vectors whose path leads out of the current folder."""
    model = spec.model
    if model is None or model == MINILM:
        return
    if backbones.get(spec.backbone).words:
        is_local = model.startswith(FOREIGN) or ":" in model or "\\" in model or ".." in Path(model).parts
    else:
        is_local = spec.model_sha256 is not None or not is_hub_name(model)
    if is_local:
        raise UsageError(f"its model {shortened(model)!r} is a folder of one machine: use one that others can load.")


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
