"""`nlpcl sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nlpcl.cli.app import app, console, say, table, warn
from nlpcl.cli.display import SweepReporter, time_in_words
from nlpcl.cli.options import asks_for_a_run
from nlpcl.config.arguments import Request
from nlpcl.errors import UsageError
from nlpcl.records.record import check_out
from nlpcl.sweeps.cells import Execution
from nlpcl.sweeps.grid import Grid
from nlpcl.sweeps.local import run_local, workers
from nlpcl.sweeps.plan import Plan, plan
from nlpcl.sweeps.ray import Needs, run_on_ray


@app.command("sweep")
@asks_for_a_run
def sweep_command(
    asked: Request,
    execution: Execution,
    needs: Needs,
    file: Annotated[
        Path | None, typer.Option("--file", help="Grids in TOML; options given beside it win over the file's.")
    ] = None,
    skip_impossible: Annotated[
        bool, typer.Option("--skip-impossible", help="Leave combinations out that cannot run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs and an estimate of their time.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="One `nlpcl run ...` a line, for job arrays.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at a time. Default: one for each GPU, or one.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Run on a Ray cluster: auto, local or its host:port.")
    ] = None,
) -> None:
    """Do many runs: options take several values, as --strategy ncl,hat --order 0-4. Runs with a record are skipped."""
    if ray is None and needs != Needs():
        raise UsageError("--cpus, --gpus, --memory and --retries are for --ray: leave them out.")
    if jobs is not None and ray is not None:
        raise UsageError("--jobs does not go with --ray, which fills the cluster: leave it out.")
    asked_grid = Grid.asked(asked)
    grids = [asked_grid] if file is None else [grid.with_more(asked_grid) for grid in Grid.read(file)]
    requests = (request for grid in grids for request in grid.requests())
    planned = plan(
        requests, execution.out, asked.presets, data_root=execution.data_root, skip_impossible=skip_impossible
    )
    for reason in planned.left_out:
        warn(f"left out: {reason}")
    if print_:
        for line in [cell.line(execution) for cell in planned.to_run]:
            say(line)
    elif dry_run:
        _show(planned, workers(jobs, execution.device) if ray is None else None)
    else:
        _execute(planned, execution, jobs, ray, needs)


def _execute(planned: Plan, execution: Execution, jobs: int | None, ray: str | None, needs: Needs) -> None:
    from nlpcl.cli import main

    check_out(execution.out)
    with SweepReporter(len(planned.to_run), execution) as progress:
        if ray is None:
            run_local(planned.to_run, jobs, execution, progress)
        else:
            run_on_ray(planned.to_run, ray, needs, execution, progress, main)
    say(f"{len(planned.cells)} runs: {len(planned.done)} were done, {progress.done - len(progress.failed)} are new")
    for outcome in progress.failed:
        say(f"failed: {outcome.cell.label}: {outcome.error} ({outcome.cell.log(execution)})")
    if progress.failed:
        raise typer.Exit(1)


def _show(planned: Plan, jobs: int | None) -> None:
    rows = []
    for cell in planned.cells:
        seconds = planned.seconds[cell.id]
        about = "unknown" if seconds is None else f"about {time_in_words(seconds)}"
        rows.append((cell.id, cell.label, "done" if cell.id in planned.done else about))
    console.print(table(("id", "run", "time"), rows, figures=("time",)))
    known = [seconds for cell in planned.to_run if (seconds := planned.seconds[cell.id]) is not None]
    say(f"{len(planned.cells)} runs: {len(planned.done)} done, {len(planned.to_run)} to run")
    if known:
        at_once = f"{jobs} at a time" if jobs else "one at a time; a cluster does as many as it holds"
        say(f"about {time_in_words(max(sum(known) / (jobs or 1), *known))} for {len(known)} of them, {at_once}")
    if len(known) < len(planned.to_run):
        say(f"unknown for {len(planned.to_run) - len(known)}: no record in --out tells")
