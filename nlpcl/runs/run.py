"""`run(spec) -> Record`: setup, main, fit. The only module that joins benchmark, model and strategy."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from nlpcl.benchmarks import Benchmark, Words
from nlpcl.config.resolve import check_epochs, resolve
from nlpcl.config.spec import CompleteSpec, RunSpec
from nlpcl.errors import OneProcessError, UsageError, is_out_of_memory
from nlpcl.models import ContinualModel, build_model, precompute
from nlpcl.options import complete_options
from nlpcl.records.record import Record
from nlpcl.registry import backbones, benchmarks, check_processes, strategies
from nlpcl.runs.alike import check_asked_alike, check_read_alike
from nlpcl.runs.checkpoint import CheckpointManager, interruptible
from nlpcl.runs.checkpoint_folder import CheckpointFolder
from nlpcl.runs.fit import ProgressPlugin, fit
from nlpcl.runs.identity import check_same, identified
from nlpcl.runs.lock import run_lock
from nlpcl.runs.progress import RunProgress
from nlpcl.runs.results import UNFINISHED, Results
from nlpcl.runs.room import Room
from nlpcl.runs.state import NotSerializable
from nlpcl.training import distributed
from nlpcl.training.device import seed_everything, tf32
from nlpcl.training.evaluators import silent_evaluator
from nlpcl.training.internals import COMPILER_ERRORS


def setup(
    spec: CompleteSpec,
    *,
    device: torch.device,
    data_root: str | Path | None = None,
    eval_batch_size: int = 128,
    plugins: Sequence[Any] = (),
    encoded_splits: Sequence[str] = ("train", "valid", "test"),
    encoded_tasks: int | None = None,
    on_encoded: Callable[[int, int], None] | None = None,
) -> tuple[Benchmark, SupervisedTemplate[Any, Any, Any]]:
    """Seed everything and build the benchmark and the strategy of a complete spec.

    :param data_root: folder with the data; None means that the package downloads what it needs.
    :param plugins: of Avalanche, which the strategy gets besides its own.
    :param encoded_splits: the splits that a frozen encoder sees.
    :param encoded_tasks: number of tasks that it sees; None means all.
    :param on_encoded: called with the number of examples that it has seen, and of all.
    :raises UsageError: the spec cannot be run.
    """
    seed_everything(spec.seed)
    text = spec.max_length is not None
    backbone = backbones.get(spec.backbone)
    stream = benchmarks.get(spec.benchmark)
    tokenizer = Words(spec.model, backbone.words) if backbone.words else spec.model
    benchmark = stream.target(
        spec.scenario,
        spec.order,
        tasks=spec.tasks,
        train_size=spec.train_size,
        root=data_root,
        **({"seed": spec.data_seed} if spec.data_seed else {}),
        **complete_options(stream, spec.benchmark_options),
        **({"tokenizer": tokenizer, "max_length": spec.max_length} if text else {}),
    )
    if isinstance(spec.epochs, dict) and spec.tasks is None and stream.published is None:
        check_epochs(spec.epochs, benchmark.task_names)
    if backbone.frozen and not spec.options.get("parity"):
        precompute(
            benchmark,
            str(spec.model),
            device=device,
            splits=encoded_splits,
            tasks=encoded_tasks,
            progress=on_encoded,
        )
    padding = {"padding": spec.padding} if text else {}
    options = complete_options(backbone, spec.backbone_options)
    model = build_model(benchmark, spec.backbone, spec.model, **padding, **options)
    strategy = build_strategy(spec, model, device, eval_batch_size=eval_batch_size, plugins=plugins)
    return benchmark, strategy


def build_strategy(
    spec: CompleteSpec,
    model: ContinualModel,
    device: torch.device,
    *,
    eval_batch_size: int = 128,
    plugins: Sequence[Any] = (),
) -> SupervisedTemplate[Any, Any, Any]:
    """Build the strategy of a complete spec, with AdamW and the spec's training settings."""
    entry = strategies.get(spec.strategy)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=spec.learning_rate,
        weight_decay=spec.weight_decay,
        eps=1e-6,
        fused=True if device.type == "cuda" else None,
    )
    strategy: SupervisedTemplate[Any, Any, Any] = entry.target(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=spec.train_batch_size,
        eval_mb_size=eval_batch_size,
        device=device,
        plugins=list(plugins),
        evaluator=silent_evaluator(),
        **(spec.engine_settings() if entry.engine else {}),
        **complete_options(entry, spec.options),
    )
    return strategy


def run(
    spec: RunSpec,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = "runs",
    device: str = "auto",
    eval_batch_size: int = 128,
    progress: RunProgress | None = None,
    checkpoint_minutes: float = 10,
    fresh: bool = False,
    compiled: bool = False,
    gradient_checkpointing: bool = False,
    repeated: Record | None = None,
) -> Record:
    """Run a spec and return its record, also saved as `out/<id>/record.json`.

    The id is that of the complete spec with the digests of own data and of a local encoder (`nlpcl.runs.identity`).
    Only the spec can change the result; the other arguments say where and how it is computed. A run that was
    interrupted goes on from its last checkpoint, in `out/<id>/checkpoints`, to the same record. If the run fails (out
    of memory, NaN loss), `failed.json` in the same folder says why. The record's room on the disk is taken before the
    training.

    :param data_root: folder with the data; None means that the package downloads what it needs.
    :param out: folder for records and checkpoints; None means that nothing is written.
    :param device: `auto`, `cpu`, `cuda`, ...
    :param eval_batch_size: mini-batch size at test.
    :param progress: shows how the run goes; None means that nothing does.
    :param checkpoint_minutes: within a task a checkpoint is saved every so many minutes; 0: only between tasks.
    :param fresh: start over: ignore checkpoints and the record of this run.
    :param compiled: let torch compile the encoder.
    :param gradient_checkpointing: compute the encoder's activations again in the backward pass, to save memory.
    :param repeated: the record that the run repeats: it must read the same files and the same encoder.
    :raises UsageError: the spec cannot be run, another process is at it, the run failed, or a record or checkpoint of
        the same id was made from other files.
    :raises KeyboardInterrupt: SIGINT or SIGTERM came; what was done is saved.
    """
    if platform.system() == "Windows":  # which cannot sync the folder of a checkpoint, and has no SIGTERM
        raise UsageError("nlpcl runs on Linux and macOS: on Windows start it in WSL, the Windows Subsystem for Linux.")
    progress = progress or RunProgress()
    with distributed.process_group(device) as local_device, ExitStack() as stack:
        stack.callback(progress.stop)
        with distributed.raise_on_all_ranks():
            spec = identified(resolve(spec), data_root)
            folder = None if out is None else Path(out) / spec.id
        settings = {
            "eval_batch_size": eval_batch_size,
            "checkpoint_minutes": float(checkpoint_minutes),
            "fresh": fresh,
            "compiled": compiled,
            "gradient_checkpointing": gradient_checkpointing,
            "out": "a folder" if folder else None,
            "device": local_device.type,
        }
        check_asked_alike(spec, settings)
        with distributed.raise_on_all_ranks():
            room = Room(folder) if folder is not None and distributed.is_rank_zero() else None
            if room is not None:
                stack.enter_context(run_lock(room.folder))
                stack.callback(room.give_back)
        stack.enter_context(tf32(spec.precision == "tf32"))
        check_processes(strategies.get(spec.strategy), distributed.world_size())
        must_match = {} if repeated is None else {"the record to repeat": repeated.data}
        if folder is not None and not fresh:
            with suppress(UsageError):  # there is none, or the file is not a record
                must_match[str(folder / "record.json")] = Record.load(folder / "record.json").data
        saved = None if folder is None else CheckpointFolder(folder / "checkpoints", spec.id)
        if saved is not None and fresh:
            saved.clear()

        while True:
            begun = time.monotonic()
            with (
                interruptible(),
                distributed.raise_on_all_ranks(),
                distributed.local_rank_zero_first(),
                explaining(None, spec),
            ):
                benchmark, strategy = setup(
                    spec,
                    device=local_device,
                    data_root=data_root,
                    eval_batch_size=eval_batch_size,
                    # Always there, so that a checkpoint can be resumed with or without a progress display.
                    plugins=[ProgressPlugin(progress)],
                    on_encoded=progress.encoded,
                )
                identified(spec, data_root)  # or the files changed while they were read
                results = Results(spec, benchmark, strategy, compiled=compiled, begun=begun)
                for place, data in must_match.items():
                    check_same(data, results.data, place)
                if room is not None:
                    room.take(results.record(UNFINISHED))
            check_read_alike(results.data)
            model = cast(ContinualModel, strategy.model)
            if gradient_checkpointing:
                model.backbone.recompute_activations()
            if compiled:
                model.backbone.compile_encoder()
            checkpoints = CheckpointManager(saved, strategy, benchmark, checkpoint_minutes, results, progress)
            try:
                with explaining(None, spec):
                    start = checkpoints.resume()
                progress.start(benchmark.task_names, results.epochs)
                try:
                    with interruptible(checkpoints), explaining(strategy, spec):
                        fit(
                            strategy,
                            benchmark,
                            eval=spec.eval,
                            epochs=results.epochs,
                            matrix=results.matrix,
                            start=start,
                            observer=checkpoints,
                        )
                except UsageError as error:
                    if room is not None:
                        with suppress(UsageError):  # of a full disk: why the run failed must be told all the same
                            room.save(results.record(str(error)))
                    if checkpoints.latest is not None:
                        error.args = (f"{error} The last good checkpoint is {checkpoints.latest}.",)
                    raise
                break
            except NotSerializable as error:  # at the start, or where the checkpoint joins a task
                assert saved is not None
                progress.say(f"checkpoint {saved.step_past()} does not fit ({error}): stepped past")
        record = results.record()
        if room is not None:
            room.save(record)
            with suppress(OSError):  # there is none, or it cannot be removed
                (room.folder / "failed.json").unlink()
        if saved is not None:
            saved.clear()
        return record


@contextmanager
def explaining(strategy: SupervisedTemplate[Any, Any, Any] | None, spec: CompleteSpec) -> Iterator[None]:
    """Turn an error that is no fault of the program into a sentence on what to do.

    :param strategy: the one that trains; None means that it is being made.
    :raises UsageError: memory ran out, or torch cannot compile the encoder.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            shorter = f", a --max-length below {spec.max_length}" if spec.max_length else ""
            if strategy is None:
                why = f"before the training: try a smaller --model or --backbone{shorter}, or less in --set"
            elif not strategy.is_training:
                why = f"at test: try an --eval-batch-size below {strategy.eval_mb_size}{shorter} or --precision bf16"
            else:
                recomputes = getattr(getattr(strategy.model, "backbone", None), "recomputes", None)
                less = ", --gradient-checkpointing" if recomputes is False else ""
                why = (
                    f"with --train-batch-size {spec.train_batch_size}: try a smaller one{shorter}{less} or "
                    "--precision bf16"
                )
            failure = OneProcessError(f"out of memory {why}.")
        elif type(error).__module__ in COMPILER_ERRORS:
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            failure = OneProcessError(f"torch cannot compile the encoder here ({why}): leave --compile out.")
        else:
            raise
        raise failure from error
