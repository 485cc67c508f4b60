"""Check what a record says against what the package knows, and against what its other parts force it to be.

docs/protocol.md lists every field and how it is checked.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from nlpcl.config.encoders import MINILM, MINILM_SHA256
from nlpcl.config.orders import order_tasks
from nlpcl.config.spec import CompleteSpec
from nlpcl.errors import UsageError
from nlpcl.leaderboard.files import as_text, shortened
from nlpcl.leaderboard.shapes import (
    EncoderFacts,
    GitFacts,
    HostFacts,
    SizeFacts,
    TaskFacts,
    VectorFacts,
    check_data,
    read_part,
)
from nlpcl.records.metrics import macro_f1_bounds
from nlpcl.records.record import MOST_TASKS, PACKAGES, Measured, Record
from nlpcl.registry import BenchmarkEntry, Known, Regime, backbones, benchmarks, strategies

ROUNDING = 1e-6
"""Scores are stored with six digits, and macro-F1 is computed in single precision."""
_VERSION = re.compile(r"\d+(\.\d+)+[\w.+!-]{0,40}", re.ASCII)


def check_claims(spec: CompleteSpec, record: Record) -> None:
    """Check all that a record says beside its spec.

    :param spec: the record's spec, which can be repeated.
    :raises UsageError: something is not what the package knows, or cannot be, given the rest; the message names it.
    """
    tasks = check_data(record)
    entry, regime = benchmarks.get(spec.benchmark), strategies.get(spec.strategy).protocol
    _check_order(spec, entry, [task.name for task in tasks])
    _check_known(spec, entry, tasks, record.data.get("files", {}))
    _check_encoder(spec, record.data.get("encoder"), tasks[0].name)
    _check_cells(spec, regime, record)
    _check_scores(spec, entry, record, tasks)
    _check_same("seeds", record.seeds, {"train": spec.seed, "data": spec.data_seed})
    _check_sizes(spec, regime, record, tasks)
    _check_versions(record.versions)
    _check_measured(spec, regime, record.measured, tasks)


def _check_same(name: str, found: Any, known: Any) -> None:
    if found != known:
        raise UsageError(f"{name} must be {shortened(as_text(known))}, not {shortened(as_text(found))}.")


def _check_order(spec: CompleteSpec, entry: BenchmarkEntry, names: list[str]) -> None:
    """Check that the tasks are those of the spec and come in its order."""
    if entry.published is not None:
        asked = {"scenario": spec.scenario, "order": spec.order, "tasks": spec.tasks}
        orders, known = entry.published(**asked, **spec.benchmark_options or {})
        wanted = order_tasks(orders, spec.order, spec.tasks, known)
        if names != wanted:
            raise UsageError(
                f"its spec asks for the order {shortened(as_text(spec.order))} of {spec.benchmark}, with tasks "
                f"{shortened(str(wanted))}; its data are of {shortened(str(names))}."
            )
    wanted_names = spec.tasks if isinstance(spec.tasks, list) else names
    if set(wanted_names) != set(names) or (isinstance(spec.tasks, int) and spec.tasks != len(names)):
        raise UsageError(
            f"its spec asks for tasks {shortened(str(spec.tasks))}, its data are of {shortened(str(names))}."
        )
    if isinstance(spec.order, list) and names != [name for name in spec.order if name in names]:
        raise UsageError(f"its spec asks for the order {shortened(as_text(spec.order))}, not {shortened(str(names))}.")


def _check_known(
    spec: CompleteSpec, entry: BenchmarkEntry, tasks: Sequence[TaskFacts], files: Mapping[str, str]
) -> None:
    """Check labels, numbers of examples and SHA-256 of the files against those of the published data."""
    names = [task.name for task in tasks]
    asked = {"scenario": spec.scenario, "order": spec.order, "tasks": spec.tasks}
    known = entry.known and entry.known(names, **asked, **spec.benchmark_options or {})
    is_own = spec.data_sha256 is not None
    if is_own and entry.own_files is None:
        raise UsageError(f"its spec has data_sha256, and {entry.name} reads no data of the user's own.")
    if is_own or (known is not None and known.files is not None):
        _check_files(None if is_own or known is None else known.files, files)
    elif entry.own_files is not None:
        raise UsageError(f"{entry.name} reads data of the user's own, which its spec does not identify (data_sha256).")
    for i, task in enumerate(tasks):
        spec.epochs_for(task.name)
        place = f"data.tasks.{i}"
        if len(set(task.labels)) < len(task.labels):
            raise UsageError(f"{place}.labels of {task.name} has a label twice.")
        if spec.train_size is not None and task.train > spec.train_size:
            raise UsageError(
                f"its spec allows {spec.train_size} training examples a task, {task.name} had {task.train}."
            )
        if known is None:
            continue
        labels, sizes = known.tasks[i]
        if labels is not None:
            _check_same(f"{place}.labels of {task.name}", task.labels, list(labels))
        if sizes is not None and not is_own:
            train = min(sizes[0], sizes[0] if spec.train_size is None else spec.train_size)
            for part, number in (("train", train), ("valid", sizes[1]), ("test", sizes[2])):
                _check_same(f"{place}.{part} of {task.name}", getattr(task, part), number)
    if known is not None and not is_own:
        _check_totals(spec, entry, known, tasks)


def _check_totals(spec: CompleteSpec, entry: BenchmarkEntry, known: Known, tasks: Sequence[TaskFacts]) -> None:
    """Check the numbers of examples of all tasks together, where those of single tasks are not known."""
    if entry.sizes is None or entry.published is None or not any(task.sizes is None for task in known.tasks):
        return
    asked = {"scenario": spec.scenario, "order": spec.order, "tasks": spec.tasks}
    every = len(entry.published(**asked, **spec.benchmark_options or {})[0][0]) == len(tasks)
    for part, most in zip(("train", "valid", "test"), entry.sizes, strict=True):
        total = sum(getattr(task, part) for task in tasks)
        if total > most or (every and total < most and not (part == "train" and spec.train_size is not None)):
            raise UsageError(f"data.tasks: {part} of all tasks must be {most:,}, not {total:,}.")


def _check_files(known: Mapping[str, str | None] | None, files: Mapping[str, str]) -> None:
    """Check the SHA-256 of the files that were read: of the user's own (`known` is None) only that there are some."""
    if known is None and not files:
        raise UsageError("data.files must name the files that were read.")
    for name in sorted({*files, *(files if known is None else known)}):
        digest = None if known is None else known.get(name)
        if known is not None and (name not in files or name not in known):
            what = "is missing" if name not in files else "is no file of the published data"
            raise UsageError(f"data.files: {shortened(name)} {what}.")
        if digest is None and not re.fullmatch("[0-9a-f]{64}", files[name]):
            raise UsageError(f"data.files: {shortened(name)} must have a SHA-256, not {shortened(files[name])}.")
        if digest is not None and files[name] != digest:
            raise UsageError(
                f"data.files: {shortened(name)} is not the published file: its SHA-256 is {shortened(files[name])} "
                f"and must be {digest}."
            )


def _check_encoder(spec: CompleteSpec, encoder: dict[str, Any] | None, first_task: str) -> None:
    """Check what is said of the encoder, or of the word vectors."""
    if benchmarks.get(spec.benchmark).modality != "text":
        _check_same("data.encoder", encoder, None)
        return
    if backbones.get(spec.backbone).words:
        vectors = read_part(VectorFacts, "data.encoder", encoder)
        _check_same("data.encoder.sha256", vectors.sha256, spec.model_sha256)
        trained_on = f"the training text of task {first_task}" if spec.model is None else None
        _check_same("data.encoder.trained_on", vectors.trained_on, trained_on)
        return
    facts = read_part(EncoderFacts, "data.encoder", encoder)
    _check_same("data.encoder.name", facts.name, spec.model)
    weights = facts.__pydantic_extra__
    if spec.model == MINILM:
        _check_same("data.encoder.revision", facts.revision, None)
        _check_same("data.encoder, the SHA-256 of minilm's weights,", weights, {"model.safetensors": MINILM_SHA256})
    if not weights or not all(name.endswith((".safetensors", ".bin")) for name in weights):
        raise UsageError(f"data.encoder must hold the SHA-256 of weights, not of {shortened(str(list(weights)))}.")


def _check_cells(spec: CompleteSpec, regime: Regime, record: Record) -> None:
    """Check that the matrices hold a score in every cell that such a run measures, and in no other."""
    n, matrices = len(record.matrices.accuracy), record.matrices
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


def _check_scores(spec: CompleteSpec, entry: BenchmarkEntry, record: Record, tasks: Sequence[TaskFacts]) -> None:
    """Check that accuracies are shares of the test examples, and macro-F1 what it can be beside the accuracy."""
    scores, every_label = record.matrices, {*entry.labels, *(label for task in tasks for label in task.labels)}
    shared = MOST_TASKS if spec.scenario == "cil" and not entry.labels else len(every_label)
    for j, task in enumerate(tasks):
        classes = len(task.labels) if spec.scenario == "til" else shared
        for i, row in enumerate(scores.accuracy):
            accuracy, macro_f1 = row[j], scores.macro_f1[i][j]
            if accuracy is not None and macro_f1 is not None:
                where = f"of {shortened(task.name)} after task {i + 1}"
                correct = _correct(accuracy, task.test, f"accuracy {where}")
                _check_macro_f1(macro_f1, correct, task.test, classes, where)
        if scores.initial is not None and (accuracy := scores.initial[j]) is not None:
            _correct(accuracy, task.test, f"initial accuracy of {shortened(task.name)}")


def _correct(accuracy: float, examples: int, what: str) -> int:
    """Return the number of correct answers that an accuracy says.

    :raises UsageError: no number of them gives it.
    """
    correct = round(accuracy * examples)
    if abs(accuracy - correct / examples) > ROUNDING:
        raise UsageError(f"{what} is {accuracy}, which is no share of {examples:,} test examples.")
    return correct


def _check_macro_f1(macro_f1: float, correct: int, examples: int, classes: int, where: str) -> None:
    if classes == 1 and correct < examples:
        raise UsageError(f"accuracy {where} is below 1, and there is one label alone.")
    low, high = macro_f1_bounds(correct, examples, classes)
    said = f"macro_f1 {where} is {macro_f1}: with {correct:,} of {examples:,} correct and {classes} classes"
    if not low - ROUNDING <= macro_f1 <= high + ROUNDING:
        raise UsageError(f"{said} it lies between {low:.6f} and {high:.6f}.")
    if classes == 2 and min(abs(macro_f1 - value) for value in _nearest(macro_f1, correct, examples)) > ROUNDING:
        raise UsageError(f"{said} no prediction gives it.")


def _nearest(macro_f1: float, correct: int, examples: int) -> list[float]:
    """Return the values of macro-F1 of two classes next to `macro_f1`, of all that so many correct answers can give.

    Each error counts in both classes, so it is the mean of 2a / (2a + e) and of 2b / (2b + e) with a and b correct
    answers in either class, a + b in all, and e errors. It rises with a up to a = b.
    """
    errors = examples - correct
    if not errors:
        return [1.0]

    def value(a: int) -> float:
        return a / (2 * a + errors) + (correct - a) / (2 * (correct - a) + errors)

    least = range(correct // 2 + 1)
    place = bisect_left(least, macro_f1, key=value)
    return [value(a) for a in least[max(0, place - 1) : place + 1]]


def _trainings(regime: Regime, tasks: int) -> int:
    return 1 if regime == "joint" else tasks


def _check_length(name: str, found: Sequence[Any], wanted: int) -> None:
    if len(found) != wanted:
        raise UsageError(f"{name} must have {wanted} {'entry' if wanted == 1 else 'entries'}, not {len(found)}.")


def _check_sizes(spec: CompleteSpec, regime: Regime, record: Record, tasks: Sequence[TaskFacts]) -> None:
    sizes = read_part(SizeFacts, "sizes", record.sizes)
    trainings = _trainings(regime, len(tasks))
    if sizes.parameters_frozen_at_end > sizes.parameters:
        raise UsageError(f"sizes.parameters_frozen_at_end must be at most the {sizes.parameters:,} parameters.")
    _check_length("sizes.kept_bytes", sizes.kept_bytes, trainings)
    for name in ("best_epochs", "undecided_gates"):
        if getattr(sizes, name) is not None:
            _check_length(f"sizes.{name}", getattr(sizes, name), trainings)
    epochs = [spec.epochs_for(task.name) for task in tasks]
    for best, most in zip(sizes.best_epochs or (), [max(epochs)] if regime == "joint" else epochs, strict=False):
        if best > most:
            raise UsageError(f"sizes.best_epochs must be at most the {most} epochs of a task, not {best}.")


def _check_versions(versions: Mapping[str, str]) -> None:
    for name in ("python", "threads", "nlpcl", "torch"):
        if name not in versions:
            raise UsageError(f"versions lacks {name}.")
    for name, text in versions.items():
        if name not in ("python", "threads", *PACKAGES):
            raise UsageError(f"versions: {shortened(name)} is none of python, threads, {', '.join(PACKAGES)}.")
        is_absent = text == "not installed" and name not in ("python", "threads", "nlpcl", "torch")
        if not is_absent and not (_VERSION.fullmatch(text) if name != "threads" else re.fullmatch("[1-9][0-9]*", text)):
            what = "number of threads" if name == "threads" else "version"
            raise UsageError(f"versions.{name} must be a {what}, not {shortened(text)!r}.")


def _check_measured(spec: CompleteSpec, regime: Regime, said: Measured, tasks: Sequence[TaskFacts]) -> None:
    """Check what is said of time and machine, as far as one part of it says something of another."""
    seconds, n = said.seconds, _trainings(regime, len(tasks))
    tests = 1 if regime == "joint" or (regime == "continual" and spec.eval == "final") else len(tasks)
    tests += regime == "continual" and spec.eval == "full"
    for name, found, wanted in (("train", seconds.train, n), ("evaluate", seconds.evaluate, tests)):
        if found:
            _check_length(f"measured.seconds.{name}", found, wanted)
    parts = [seconds.setup or 0.0, *seconds.train, *seconds.evaluate]
    if seconds.total is not None and sum(parts) > seconds.total + 0.001 * len(parts):  # each is rounded
        raise UsageError(f"measured.seconds.total must be at least {sum(parts):.3f}, the sum of its parts.")
    if said.samples_per_second is not None and regime != "joint" and seconds.train:
        examples = sum(task.train * spec.epochs_for(task.name) for task in tasks)
        rate = examples / max(sum(seconds.train), 1e-3)
        if abs(said.samples_per_second - rate) > 0.01:
            raise UsageError(f"measured.samples_per_second must be {rate:.2f}, not {said.samples_per_second}.")
    if said.device is not None:
        if not re.fullmatch(r"[a-z]{2,20}(:[0-9]{1,4})?", said.device):
            raise UsageError(f"measured.device must be a device of torch, not {shortened(said.device)!r}.")
        if (said.peak_gpu_memory_mb is not None) != said.device.startswith("cuda"):
            raise UsageError("measured.peak_gpu_memory_mb belongs to a run on a GPU (device cuda), and to no other.")
    if said.started is not None:
        _check_started(said.started)
    if said.processes > 1 and not strategies.get(spec.strategy).ddp:
        raise UsageError(f"measured.processes must be 1: {spec.strategy} does not run in several.")
    read_part(HostFacts, "measured.host", said.host)
    if said.git is not None:
        read_part(GitFacts, "measured.git", said.git)


def _check_started(text: str) -> None:
    try:
        started = datetime.fromisoformat(text)
    except ValueError:
        started = None
    if started is None or started.utcoffset() != timedelta(0):
        raise UsageError(
            f"measured.started must be a time in UTC, as 2026-01-31T12:00:00+00:00, not {shortened(text)!r}."
        )
