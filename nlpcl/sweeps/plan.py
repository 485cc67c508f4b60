"""What a sweep has to do, and how long it may take."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nlpcl.config.arguments import Request
from nlpcl.config.encoders import encoder_fingerprint
from nlpcl.config.presets import PresetFile
from nlpcl.config.spec import FIELDS, CompleteSpec
from nlpcl.errors import Impossible, UsageError
from nlpcl.records.record import Record
from nlpcl.runs.identity import check_same, identified
from nlpcl.sweeps.cells import Cell, finished


@dataclass(frozen=True)
class Plan:
    """A sweep before it runs.

    :param cells: its runs, each once.
    :param done: ids of those that have a record.
    :param left_out: why the impossible ones are not among them, a sentence each.
    :param seconds: by id how long a run may take; None where no record tells.
    """

    cells: list[Cell]
    done: set[str]
    left_out: list[str]
    seconds: dict[str, float | None]

    @property
    def to_run(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.id not in self.done]


def plan(
    requests: Iterable[Request],
    out: Path,
    presets: Sequence[Path] = (),
    *,
    data_root: str | None = None,
    skip_impossible: bool = False,
) -> Plan:
    """Return the runs of a sweep, and which of them are done.

    :param requests: the runs; those of one spec are one.
    :param out: folder of records; what has one with status `ok` is done.
    :param presets: files of settings; each goes to the runs that it fits.
    :param data_root: folder with the data: runs on other data are other runs.
    :param skip_impossible: leave out combinations that cannot run.
    :raises UsageError: a run cannot be asked for so, a combination cannot run, a preset fits no run, or a record was
        made with another encoder of the same name.
    """
    runs: dict[str, tuple[Request, CompleteSpec]] = {}
    refused: list[str] = []
    settings = [(path, PresetFile.load(path)) for path in presets]
    unused = set(presets)
    total = 0
    for request in requests:
        total += 1
        try:
            spec = request.spec()
        except Impossible as error:
            refused.append(f"{' '.join(request.argv())}: {error}")
            continue
        fitting = tuple(path for path, preset in settings if preset.misfit(spec) is None)
        if fitting:
            unused -= set(fitting)
            request = replace(request, presets=fitting)
            spec = request.spec()
        spec = identified(spec, data_root)
        runs.setdefault(spec.id, (request, spec))
    if refused and (not skip_impossible or not runs):
        hint = "" if skip_impossible else " --skip-impossible leaves such runs out."
        raise UsageError(f"{len(refused)} of {total} runs cannot be, the first: {refused[0]}{hint}")
    if unused:
        raise UsageError(f"--preset {min(unused)} fits no run of this sweep.")
    cells = _labelled(runs)
    records = [record for path in sorted(out.glob("*/record.json")) if (record := finished(path)) is not None]
    done = {record.id: record for record in records if record.id in runs}
    for id, record in done.items():
        model = runs[id][1].model
        if model is not None and record.data.get("encoder"):
            check_same(record.data, {"encoder": encoder_fingerprint(model)}, str(out / id / "record.json"))
    return Plan(cells, set(done), refused, estimates(cells, records))


def _labelled(runs: Mapping[str, tuple[Request, CompleteSpec]]) -> list[Cell]:
    """Return the cells, each labelled by what was asked for and differs between the runs."""
    texts = {id: {**request.fields, **request.assigned()} for id, (request, _) in runs.items()}
    names = {name for asked in texts.values() for name in asked}
    differing = {name for name in names if len({asked.get(name) for asked in texts.values()}) > 1}
    cells = []
    for id, (request, spec) in runs.items():
        label = ", ".join(f"{name} {text}" for name, text in texts[id].items() if name in differing)
        cells.append(Cell(request, id, spec, label or id))
    return cells


def estimates(cells: Sequence[Cell], records: Iterable[Record]) -> dict[str, float | None]:
    """Return by id the seconds that each run may take: the mean of the nearest records that do the same work.

    Runs of the same work agree in all fields that matter for cost; the nearest differ in the fewest other
    fields, order and seed left out.
    """
    by_work: dict[str, list[tuple[dict[str, Any], float]]] = defaultdict(list)
    for record in records:
        if (total := record.measured.seconds.total) is not None:
            by_work[_work(record.spec)].append((record.spec, total))
    paired_by = {name for name, field in FIELDS.items() if field.compared == "block"}
    seconds: dict[str, float | None] = {}
    for cell in cells:
        content = cell.spec.model_dump(mode="json", exclude_unset=True)
        distances: dict[int, list[float]] = defaultdict(list)
        for spec, total in by_work[_work(content)]:
            differing = [name for name in {*content, *spec} - paired_by if content.get(name) != spec.get(name)]
            distances[len(differing)].append(total)
        seconds[cell.id] = statistics.fmean(distances[min(distances)]) if distances else None
    return seconds


def _work(content: Mapping[str, Any]) -> str:
    return json.dumps([content.get(name) for name, field in FIELDS.items() if field.cost], sort_keys=True)
