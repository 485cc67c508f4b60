"""Gather records into rows of the leaderboard: one method in one setting under one protocol (docs/protocol.md)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from nlpcl.errors import UsageError, about
from nlpcl.leaderboard.compare import DRAW, HIGHER_IS_BETTER, METHOD, UNTOLD, by_block, draw_of_subset, facts
from nlpcl.leaderboard.files import Block, Run, aligned, as_text, record_files, under
from nlpcl.leaderboard.shapes import check_data
from nlpcl.leaderboard.statistics import average_ranks
from nlpcl.leaderboard.submit import MOST_FILED_BYTES
from nlpcl.records.record import Record

RANKED = "average_accuracy"
_READ = ("data.files", "data.tasks", DRAW, *UNTOLD)  # these differ by order or seed, or some records lack them


@dataclass(frozen=True)
class Score:
    """Mean and standard deviation over orders and seeds, as fractions.

    :param sd: with n - 1 as divisor; None means a single run.
    """

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Score | None:
        """Return the score of `values`. None means that a run lacks the value."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return cls(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)


@dataclass(frozen=True)
class Rank:
    """Average rank by accuracy (1 is best).

    :param methods: number of methods that were ranked.
    :param blocks: number of orders and seeds that all of them have.
    """

    value: float
    methods: int
    blocks: int

    @property
    def basis(self) -> str:
        """Return over what the rank was taken, in words."""
        return f"by accuracy, of {self.methods} methods over {self.blocks} run(s) that all have"


@dataclass(eq=False)
class Protocol:
    """The protocol that the rows of one table share. Only rows of one protocol may be averaged and ranked.

    :param facts: fields by dotted name (`compare.facts`), without those that differ by order or that some records lack.
    :param edition: number of this protocol among those with equal facts whose runs read different data.
    :param budget: what benchmark, scenario, backbone and encoder do not say, in a few words.
    :param files: SHA-256 by name of what the runs read.
    :param tasks: tasks and draw of the training examples by order and seed.
    """

    facts: dict[str, Any]
    edition: int = 0
    budget: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    tasks: dict[Block, Any] = field(default_factory=dict)

    def admits(self, run: Run) -> bool:
        """Take in a run if it read the same data as those before it, and return whether it did.

        Files of one name must be alike, the encoder's as far as both records tell them. So must the tasks and the draw
        of one order and seed.
        """
        told = {name: value for name, value in facts(run).items() if under(name, UNTOLD)}
        files, tasks = {**run.record.data.get("files", {}), **told}, (run.record.data["tasks"], run.spec.get(DRAW))
        if any(self.files.get(name, digest) != digest for name, digest in files.items()):
            return False
        if self.tasks.get(run.block, tasks) != tasks:
            return False
        self.files |= files
        self.tasks[run.block] = tasks
        return True

    def __getitem__(self, name: str) -> str:
        """Return a field as text; empty if there is none."""
        value = self.facts.get(name)
        return "" if value is None else as_text(value)


@dataclass(frozen=True)
class Row:
    """One method in one setting under one protocol.

    :param id: hash of method and protocol.
    :param runs: runs by order and seed.
    :param values: metrics by order and seed.
    :param seconds: seconds of training on all tasks.
    :param setting: fields that tell the row from others of its strategy and protocol; mostly empty.
    """

    id: str
    protocol: Protocol
    strategy: str
    runs: dict[Block, Run]
    values: dict[Block, dict[str, float | None]]
    seconds: Score | None
    setting: str
    rank: Rank | None = None

    @cached_property
    def scores(self) -> dict[str, Score | None]:
        """Return the score of each metric of `HIGHER_IS_BETTER`."""
        return {name: Score.of([values[name] for values in self.values.values()]) for name in HIGHER_IS_BETTER}

    @property
    def draw(self) -> str:
        """Return a sentence on whether the spread contains the draw of the training examples; empty without a draw."""
        return "".join(draw_of_subset(self.runs.values(), len(self.runs)))


def load(folder: Path) -> tuple[list[Run], int]:
    """Return all finished runs below a folder, and the number of failed ones.

    :raises UsageError: there is no such folder, or a file in it is not a sound record.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}.")
    done, failed = [], 0
    for path in record_files(folder):
        run = Run.of(path, Record.load(path, MOST_FILED_BYTES))
        if run.record.status != "ok":
            failed += 1
            continue
        with about(f"{path} is refused"):
            check_data(run.record)
        done.append(run)
    return done, failed


def by_protocol(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each protocol; rows of one protocol must follow each other, as `gather` returns them."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row.protocol)]


def gather(runs: Iterable[Run]) -> list[Row]:
    """Return the rows of all methods, by benchmark and protocol, the most accurate first.

    :raises UsageError: two records are of one method, order and seed but differ.
    """
    variants_of: dict[str, list[tuple[Protocol, list[Run]]]] = defaultdict(list)
    every = list(runs)
    for run in aligned(every, every):
        shared = {name: value for name, value in facts(run).items() if not under(name, _READ)}
        shared["number_of_tasks"] = len(run.record.matrices.accuracy)
        variants = variants_of[as_text(shared)]
        for protocol, members in variants:
            if protocol.admits(run):
                members.append(run)
                break
        else:
            protocol = Protocol(shared, edition=len(variants))
            protocol.admits(run)
            variants.append((protocol, [run]))
    groups = [group for key in sorted(variants_of) for group in variants_of[key]]
    _name_budgets([(protocol, members[0]) for protocol, members in groups])
    tables = [_rows(protocol, members) for protocol, members in groups]
    return [row for rows in sorted(tables, key=_place) for row in rows]


def _place(rows: Sequence[Row]) -> tuple[str, ...]:
    protocol = rows[0].protocol
    return (protocol["benchmark"], protocol["scenario"], protocol["backbone"], protocol["model"], protocol.budget)


def _rows(protocol: Protocol, runs: Sequence[Run]) -> list[Row]:
    groups: dict[str, list[Run]] = defaultdict(list)
    settings: dict[str, dict[str, Any]] = {}
    for run in runs:
        setting = {name: value for name, value in run.spec.items() if under(name, METHOD)}
        groups[as_text(setting)].append(run)
        settings[as_text(setting)] = setting
    rows = []
    for key, members in groups.items():
        strategy = members[0].spec["strategy"]
        alike = [setting for setting in settings.values() if setting["strategy"] == strategy]
        ordered = dict(sorted(by_block(strategy, members, ()).items()))
        identity = as_text([protocol.facts, protocol.edition, key])
        name = hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()[:12]
        values = {block: run.record.derived() for block, run in ordered.items()}
        seconds = Score.of([sum(run.record.measured.seconds.train) or None for run in ordered.values()])
        rows.append(Row(name, protocol, strategy, ordered, values, seconds, _differing_fields(settings[key], alike)))
    return sorted(_ranked(rows), key=_best_first)


def _best_first(row: Row) -> tuple[float, str, str]:
    score = row.scores[RANKED]
    return (1.0 if score is None else -score.mean, row.strategy, row.setting)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Return rows with average ranks over the blocks in which all have an accuracy; without ranks if there is none."""
    having = [{block for block, values in row.values.items() if values[RANKED] is not None} for row in rows]
    blocks = sorted(set.intersection(*having))
    if len(rows) < 2 or not blocks:
        return list(rows)
    values = np.array([[row.values[block][RANKED] for row in rows] for block in blocks], dtype=float)
    ranks = average_ranks(values, HIGHER_IS_BETTER[RANKED])
    return [replace(row, rank=Rank(float(r), len(rows), len(blocks))) for row, r in zip(rows, ranks, strict=True)]


def _differing_fields(mine: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({name for other in others for name in other})
    different = [name for name in names if any(other.get(name) != mine.get(name) for other in others)]
    return ", ".join(f"{name.removeprefix('options.')}={as_text(mine.get(name))}" for name in different)


def _name_budgets(protocols: Sequence[tuple[Protocol, Run]]) -> None:
    alike: dict[tuple[str, ...], list[Protocol]] = defaultdict(list)
    for protocol, run in protocols:
        protocol.budget = _budget(protocol, run)
        shown = [protocol[name] for name in ("benchmark", "scenario", "backbone", "model")]
        alike[(*shown, protocol.budget)].append(protocol)
    for group in alike.values():
        if len(group) > 1:
            fields = [_differing_fields(protocol.facts, [other.facts for other in group]) for protocol in group]
            for protocol, differences in zip(group, fields, strict=True):
                edition = f"other data {protocol.edition}" if protocol.edition else ""
                protocol.budget = ", ".join(filter(None, [protocol.budget, differences, edition]))


def _budget(protocol: Protocol, run: Run) -> str:
    size, epochs = protocol["train_size"], run.spec.get("epochs")
    tasks = protocol["number_of_tasks"]
    parts = [f"{tasks} task{'' if tasks == '1' else 's'}", f"{size} examples each" if size else "all examples"]
    parts += ["epochs by task" if epochs is None else f"{epochs} epoch{'' if epochs == 1 else 's'}"]
    parts += [f"batch {protocol['train_batch_size']}", protocol["precision"]]
    return ", ".join(parts)
