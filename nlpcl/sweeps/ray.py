"""The runs of a sweep as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from nlpcl.errors import UsageError
from nlpcl.sweeps.cells import Cell, Execution, Outcome, SweepProgress, finished, last_line, outcome

_POLL = 1.0
GIGABYTE = 2**30
STOP_SECONDS = 60.0
"""Runs have so long to save a checkpoint when the sweep is interrupted."""
ANSWER_SECONDS = 5.0
"""A cluster has so long to answer: Ray itself tries for minutes."""


@dataclass(frozen=True)
class Needs:
    """What a run needs of a node.

    :param cpus: cores; also its number of threads.
    :param gpus: GPUs, or a share of one; None means one if the cluster has any.
    :param memory: GiB; None means that none is reserved.
    :param retries: how often a run is begun again when its process or its node dies.
    """

    cpus: Annotated[int, typer.Option(min=1, help="With --ray: cores for a run.")] = 1
    gpus: Annotated[
        float | None, typer.Option(min=0, help="With --ray: GPUs for a run. Default: 1 if the cluster has any.")
    ] = None
    memory: Annotated[float | None, typer.Option(min=0, help="With --ray: GiB for a run.")] = None
    retries: Annotated[
        int, typer.Option(min=0, max=1000, help="With --ray: new tries after a process or node died.")
    ] = 3

    def __post_init__(self) -> None:
        """:raises UsageError: an amount that Ray cannot deal out."""
        if self.memory is not None and not 0 < self.memory < math.inf:
            raise UsageError(f"--memory takes GiB, more than 0, not {self.memory:g}.")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or (self.gpus > 1 and self.gpus % 1 == 0)):
            raise UsageError(f"--gpus takes a whole number of GPUs or a share of one, not {self.gpus:g}.")


def run_on_ray(
    cells: Sequence[Cell],
    address: str,
    needs: Needs,
    execution: Execution,
    progress: SweepProgress,
    main: Callable[[list[str]], int],
) -> None:
    """Run cells, each as a task in a worker process of its own.

    What dies with a node is begun again on another and goes on from its last checkpoint; so `execution.out`, and the
    folder in which the sweep was started, must be the same on all nodes.

    :param address: as Ray takes it: `auto` for the cluster of this machine, `local` for a new one on it alone, or
        host:port.
    :param main: runs the arguments of `nlpcl` and returns the exit code: `nlpcl.cli.main`.
    :raises UsageError: Ray is not installed or not there, or no node can hold a run.
    :raises KeyboardInterrupt: as it came; the runs have saved a checkpoint and ended.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError('--ray needs Ray: pip install "nlpcl[ray]".') from error
    before = signal.getsignal(signal.SIGTERM)
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise UsageError(f"--ray {address}: no Ray cluster there ({error}); --ray local starts one here.") from error
    try:
        options = _options(needs, ray.nodes())
        # A process of its own for every run: no run inherits memory, threads or random states of another.
        task = ray.remote(max_calls=1, max_retries=needs.retries, **options)(_work)
        for cell in cells:
            cell.log(execution).unlink(missing_ok=True)
        pending = {task.remote(main, os.getcwd(), cell.argv(execution), cell.log(execution)): cell for cell in cells}
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray's own would abort
        try:
            _follow(ray, pending, execution, progress)
        except KeyboardInterrupt:
            progress.stopping(sum(cell.log(execution).exists() for cell in pending.values()))
            for reference in pending:
                ray.cancel(reference)
            ray.wait(list(pending), num_returns=len(pending), timeout=STOP_SECONDS)
            raise
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Check that something answers at host:port, as Ray itself would try for minutes.

    :raises OSError: nothing does.
    :raises ValueError: it is no address.
    :raises OverflowError: no port has this number.
    """
    if address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("it takes auto, local or host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


def _options(needs: Needs, nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = needs.gpus if needs.gpus is not None else float(any(node.get("GPU") for node in alive))
    wanted = {"CPU": needs.cpus, "GPU": gpus, "memory": math.ceil((needs.memory or 0) * GIGABYTE)}
    if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in alive):
        asked = f"{needs.cpus} core(s), {gpus:g} GPU(s)" + (f" and {needs.memory:g} GiB" if needs.memory else "")
        raise UsageError(f"no node of the cluster has {asked}: ask for less with --cpus, --gpus or --memory.")
    return {"num_cpus": needs.cpus, "num_gpus": gpus, "memory": wanted["memory"] or None}


def _follow(ray: Any, pending: dict[Any, Cell], execution: Execution, progress: SweepProgress) -> None:
    while pending:
        ready, _ = ray.wait(list(pending), timeout=_POLL)
        for reference in ready:
            cell = pending.pop(reference)
            try:
                progress.ended(outcome(cell, execution, ray.get(reference)))
            except ray.exceptions.RayError as error:  # an exception of the run, or its process died once too often
                log = cell.log(execution)
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("a") as stream:
                    stream.write(f"{error}\n")
                progress.ended(Outcome(cell, last_line(log) or type(error).__name__))
        progress.running([cell for cell in pending.values() if cell.log(execution).exists()])


def _work(main: Callable[[list[str]], int], folder: str, argv: list[str], log: Path) -> int:
    """Run `nlpcl run` in a worker process, with what it prints in a file, and return the exit code."""
    os.chdir(folder)
    if finished(log.with_name("record.json")) is not None:  # the process died after the record was written
        return 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream, redirect_stdout(stream), redirect_stderr(stream):
        return main(argv)
