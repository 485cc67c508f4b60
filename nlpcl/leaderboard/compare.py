"""Compare methods on the same task orders and seeds, if they ran under one protocol (docs/protocol.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpcl.config.spec import FIELDS
from nlpcl.errors import UsageError, suggest
from nlpcl.leaderboard import statistics
from nlpcl.leaderboard.files import NO_VALUE, Block, Run, aligned, differing, flattened, shortened, under

PAIRED_BY = tuple(name for name, field in FIELDS.items() if field.compared == "block")
DRAW = "data_seed"  # seed of the subset that `train_size` draws: one for each run's seed, or one for all
# A method brings its own optimization. Every other field of the spec is protocol, and so is a field added later.
METHOD = tuple(name for name, field in FIELDS.items() if field.compared == "method")
_DATA = ("encoder", "files", "tasks")
# Older records lack these fields; a record without them does not differ in them from any other.
UNTOLD = ("data.encoder.revision", "data.encoder.tokenizer")
LEAST_ALPHA = 1e-6  # far below it the studentized range has no quantile in double precision
HIGHER_IS_BETTER = {
    "average_accuracy": True,
    "learning_accuracy": True,
    "bwt": True,
    "forgetting": False,
    "macro_f1": True,
    "fwt_gem": True,
}


@dataclass(frozen=True)
class Pair:
    """The difference of two methods, `first` minus `second`, over all blocks; as JSON it has the same names.

    :param runs: number of blocks.
    :param mean_first: mean of the metric, as a fraction; `mean_second` of the other method.
    :param difference: mean difference of the metric, as a fraction.
    :param interval: its 95 % t interval; None means a single block.
    :param wilcoxon_p: p of Wilcoxon's signed-rank test.
    :param holm_p: the same, corrected for the number of pairs.
    :param nemenyi_p: p of Nemenyi's test; None means that there is no ranking.
    :param better: label of the better method; None means that `holm_p` is above alpha.
    """

    first: str
    second: str
    runs: int
    mean_first: float
    mean_second: float
    difference: float
    interval: tuple[float, float] | None
    wilcoxon_p: float
    holm_p: float
    nemenyi_p: float | None
    better: str | None


@dataclass(frozen=True)
class Ranking:
    """Average ranks (1 is best), Friedman's test and Nemenyi's critical difference, of three or more methods.

    :param average_ranks: by label.
    :param nemenyi: Nemenyi's p of each pair, (methods, methods).
    """

    average_ranks: dict[str, float]
    friedman_chi2: float
    friedman_p: float
    critical_difference: float
    nemenyi: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    :param blocks: order and seed of each block that counted.
    :param values: the metric as a fraction, (blocks, methods).
    :param ranking: None means that there are only two methods or a single block.
    :param notes: sentences that the reader must see.
    """

    metric: str
    alpha: float
    labels: list[str]
    blocks: list[Block]
    values: np.ndarray
    pairs: list[Pair]
    ranking: Ranking | None
    notes: list[str]


def compare(
    runs_of: Mapping[str, Sequence[Run]],
    metric: str = "average_accuracy",
    *,
    allow: Sequence[str] = (),
    alpha: float = 0.05,
) -> Comparison:
    """Compare methods over the blocks that all of them have.

    :param runs_of: runs of two or more methods by label, as `files.select_runs` returns them.
    :param metric: a metric of `HIGHER_IS_BETTER`.
    :param allow: fields in which the protocols may differ.
    :param alpha: level of significance, in [`LEAST_ALPHA`, 1).
    :raises UsageError: the protocols differ, runs of a method have several settings, the metric is missing, or no block
        is common.
    """
    if metric not in HIGHER_IS_BETTER:
        raise UsageError(f"there is no metric {metric!r}. {suggest(metric, HIGHER_IS_BETTER)}")
    if not LEAST_ALPHA <= alpha < 1:
        raise UsageError(f"alpha must be at least {LEAST_ALPHA:g} and less than 1, not {alpha:g}.")
    higher = HIGHER_IS_BETTER[metric]
    every = [run for runs in runs_of.values() for run in runs]
    _check_allowed(allow, every)
    methods = {label: by_block(label, aligned(runs, every), allow) for label, runs in runs_of.items()}
    common = set.intersection(*map(set, methods.values()))
    _check_protocol(methods, common, allow)
    if not common:
        has = "; ".join(f"{label} has {_block_names(runs)}" for label, runs in methods.items())
        raise UsageError(f"no order and seed is common to all: {has}.")
    blocks, labels = sorted(common), list(methods)
    values = np.array([[_value(runs[block], metric) for runs in methods.values()] for block in blocks])
    ranking = _ranking(labels, values, higher, alpha) if len(methods) > 2 and len(blocks) > 1 else None
    pairs = _pairs(labels, values, higher, alpha, ranking)
    failed = {label: sum(run.record.status != "ok" for run in runs) for label, runs in runs_of.items()}
    notes = [
        *_left_out(methods),
        *(f"{label}: {number} failed run(s) not counted." for label, number in failed.items() if number),
        *_too_few(len(blocks), len(methods), alpha),
        *draw_of_subset([runs[block] for runs in methods.values() for block in blocks], len(blocks)),
    ]
    return Comparison(metric, alpha, labels, blocks, values, pairs, ranking, notes)


def _check_allowed(allow: Sequence[str], runs: Sequence[Run]) -> None:
    known = {name for run in runs for name in {**run.spec, **facts(run)}}
    known |= {name.partition(".")[0] for name in known}
    for name in allow:
        if name not in known:
            raise UsageError(f"--allow: there is no field {name!r}. {suggest(name, known)}")


def by_block(label: str, runs: Sequence[Run], allow: Sequence[str]) -> dict[Block, Run]:
    """Return the finished runs of one method by order and seed.

    :raises UsageError: all runs failed, they have several settings, or two of one order and seed differ.
    """
    done = [run for run in runs if run.record.status == "ok"]
    if not done:
        raise UsageError(f"{label} has only failed runs ({len(runs)}).")
    runs_of: dict[Block, Run] = {}
    for run in done:
        for name, one, other in differing(done[0].spec, run.spec, (*PAIRED_BY, DRAW, *allow)):
            raise UsageError(
                f"{label} has records with {name} {shortened(one)} and {shortened(other)}: "
                f"choose with --where {name}={shortened(other if one == NO_VALUE else one)}."
            )
        known = runs_of.setdefault(run.block, run)
        if known.record.matrices != run.record.matrices:
            raise UsageError(f"{known.path} and {run.path} are of one order and seed but differ: keep one of them.")
    return runs_of


def facts(run: Run) -> dict[str, Any]:
    """Return all that a protocol fixes: the spec without the method, and the data that were really read."""
    spec = {name: value for name, value in run.spec.items() if not under(name, (*METHOD, *PAIRED_BY))}
    data = {f"data.{name}": run.record.data.get(name) for name in _DATA}
    encoder = data["data.encoder"]
    if isinstance(encoder, dict):
        optional = {name: value for name, value in encoder.items() if f"data.encoder.{name}" in UNTOLD}
        data["data.encoder"] = {name: value for name, value in encoder.items() if name not in optional}
        data |= flattened(optional, "data.encoder")
    return {**spec, **data}


def apart(a: Run, b: Run, ignore: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return name and both values, as text, of each field in which the protocols of two runs differ."""
    different = differing(facts(a), facts(b), ignore)
    return [field for field in different if not (NO_VALUE in field[1:] and under(field[0], UNTOLD))]


def _check_protocol(methods: Mapping[str, Mapping[Block, Run]], common: set[Block], allow: Sequence[str]) -> None:
    """Compare each method with the first: what was asked for, and in each block what was read."""
    (first, known), *others = methods.items()
    for label, runs in others:
        if common:
            pairs, ignored = [(known[block], runs[block]) for block in sorted(common)], tuple(allow)
        else:  # any two runs show whether the methods differ in more than their orders
            pairs = [(next(iter(known.values())), next(iter(runs.values())))]
            ignored = (*allow, DRAW, "data.files", "data.tasks")
        for mine, other in pairs:
            different = apart(mine, other, ignored)
            if different:
                fields = "; ".join(f"{name}: {shortened(one)} and {shortened(two)}" for name, one, two in different)
                flags = " ".join(f"--allow {name}" for name, *_ in different)
                raise UsageError(
                    f"{first} and {label} were not run under one protocol. They differ in {fields}. "
                    f"If that is intended, add {flags}."
                )


def draw_of_subset(runs: Iterable[Run], blocks: int) -> list[str]:
    """Return a sentence on whether the spread over `blocks` contains the draw of `train_size`, if there are both."""
    draws = {run.spec.get(DRAW) or 0 for run in runs if run.spec.get("train_size") is not None}
    if not draws or blocks < 2:
        return []
    if len(draws) == 1:
        return ["All runs have the same subset of the training examples: the spread does not include its draw."]
    return [f"The spread includes the draw of the training examples: {len(draws)} subsets."]


def _value(run: Run, metric: str) -> float:
    value = run.record.derived()[metric]
    if value is None:
        raise UsageError(f"{run.path} ({run.spec['strategy']}) has no {metric}: it was not evaluated for it.")
    return value


def _pairs(labels: list[str], values: np.ndarray, higher: bool, alpha: float, ranking: Ranking | None) -> list[Pair]:
    indices = list(itertools.combinations(range(len(labels)), 2))
    differences = [[float(x) for x in values[:, i] - values[:, j]] for i, j in indices]
    raw = [statistics.wilcoxon_p(d) for d in differences]
    means = [float(mean) for mean in values.mean(axis=0)]
    made = []
    for (i, j), d, p, p_holm in zip(indices, differences, raw, statistics.holm(raw), strict=True):
        better = {0: None, 1: labels[i], -1: labels[j]}[statistics.direction(d) * (1 if higher else -1)]
        compared = (labels[i], labels[j], len(d), means[i], means[j], float(np.mean(d)), statistics.mean_interval(d))
        nemenyi = None if ranking is None else float(ranking.nemenyi[i, j])
        made.append(Pair(*compared, p, p_holm, nemenyi, better if p_holm <= alpha else None))
    return made


def _ranking(labels: list[str], values: np.ndarray, higher: bool, alpha: float) -> Ranking:
    ranks, blocks = statistics.average_ranks(values, higher), len(values)
    by_label = dict(zip(labels, map(float, ranks), strict=True))
    difference = statistics.critical_difference(len(labels), blocks, alpha)
    return Ranking(by_label, *statistics.friedman(values), difference, statistics.nemenyi_p(ranks, blocks))


def _block_names(blocks: Iterable[Block]) -> str:
    return ", ".join(f"order {shortened(order)} seed {seed}" for order, seed in sorted(blocks))


def _left_out(methods: Mapping[str, Mapping[Block, Run]]) -> list[str]:
    """Return sentences on the orders and seeds that a method lacks."""
    every = {block for runs in methods.values() for block in runs}
    lacking = {label: every - set(runs) for label, runs in methods.items()}
    return [
        f"{name} has no run of {_block_names(these)}: left out for all." for name, these in lacking.items() if these
    ]


def _too_few(blocks: int, methods: int, alpha: float) -> list[str]:
    """Return sentences on tests that cannot reach significance with so few runs."""
    notes = []
    pairs = methods * (methods - 1) // 2
    least = min(1.0, pairs * statistics.smallest_wilcoxon_p(blocks))
    if least > alpha:
        corrected = f", corrected for {pairs} pairs," if pairs > 1 else ""
        notes.append(
            f"{blocks} run(s) of each method are too few: Wilcoxon's p{corrected} cannot be below {least:.3g}, "
            f"whatever the values. {statistics.blocks_needed(alpha, pairs)} are needed to reach {alpha:g}."
        )
    if methods > 2 and blocks == 1:
        notes.append("A single order and seed gives no ranking.")
    elif methods > 2 and blocks <= 10:
        notes.append(f"Friedman's p and the critical difference are rough with {blocks} runs of each method.")
    return notes
