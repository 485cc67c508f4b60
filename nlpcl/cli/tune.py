"""`nlpcl tune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nlpcl.cli.app import app, quiet, say, warn
from nlpcl.cli.options import asks_for_a_run
from nlpcl.config.arguments import Request
from nlpcl.errors import UsageError
from nlpcl.records.record import check_out
from nlpcl.sweeps.cells import DataRoot, Device, EvalBatchSize

if TYPE_CHECKING:
    from nlpcl.sweeps.tune import Search, Trial


@app.command("tune")
@asks_for_a_run
def tune_command(
    asked: Request,
    on: Annotated[
        Literal["first-task", "stream"],
        typer.Option("--on", help="Score: accuracy on the first task once it is trained, or on all tasks at the end."),
    ] = "first-task",
    trials: Annotated[int, typer.Option(min=1, help="Total number of trials, including earlier calls.")] = 20,
    study: Annotated[Path, typer.Option("--study", help="An SQLite file; a search that it holds goes on.")] = Path(
        "study.db"
    ),
    out: Annotated[Path, typer.Option("--out", help="The preset file to write, for --preset.")] = Path("preset.json"),
    data_root: DataRoot = None,
    device: Device = "auto",
    eval_batch_size: EvalBatchSize = 128,
) -> None:
    """Choose settings on validation data: --set lamb=0.1..10:log, --set net=cnn,gru; else the learning rate."""
    from nlpcl.sweeps.tune import Search, tune

    quiet()
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the file of the preset in it.")
    check_out(out.parent)
    search = Search.asked(asked, on)
    best = tune(
        search,
        study,
        trials,
        lambda trial: warn(_trial_line(search, trial, trials)),
        data_root=data_root,
        device=device,
        eval_batch_size=eval_batch_size,
    )
    command = shlex.join(["nlpcl", "tune", *asked.argv(), "--on", on, "--trials", str(trials)])
    accuracy = f"{100 * best.accuracy:.1f} % on validation data"
    search.preset(best.texts, f"{command}: {accuracy}, the best of {best.trials}").save(out)
    say(f"{_setting(search, best.texts)}: {accuracy}, the best of {best.trials}")
    say(f"preset: {out}")


def _trial_line(search: Search, trial: Trial, trials: int) -> str:
    result = f"failed: {trial.error}" if trial.accuracy is None else f"{100 * trial.accuracy:.1f} %"
    return f"trial {trial.number} of {trials}, {_setting(search, trial.texts)}: {result}"


def _setting(search: Search, texts: tuple[str, ...]) -> str:
    return ", ".join(f"{axis.name} {text}" for axis, text in zip(search.axes, texts, strict=True))
