"""`nlpcl run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nlpcl.cli import options
from nlpcl.cli.app import NAMES, DataRoot, app, console, quiet
from nlpcl.cli.options import asks_for_a_run
from nlpcl.config.arguments import Request
from nlpcl.config.resolve import check_repeatable
from nlpcl.config.spec import FIELDS, CompleteSpec
from nlpcl.errors import UsageError
from nlpcl.records.record import Record
from nlpcl.training.launch import is_main_process


@app.command("run", context_settings=NAMES)
@asks_for_a_run
def run_command(
    asked: Request,
    eval_batch_size: options.EvalBatchSize = 128,
    data_root: DataRoot = None,
    out: options.Out = Path("runs"),
    source: Annotated[Path | None, typer.Option("--from", help="Repeat the run of this record.json.")] = None,
    device: options.Device = "auto",
    checkpoint_minutes: options.CheckpointMinutes = 10,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, without checkpoints or old record.")] = False,
    compiled: options.Compile = False,
    gradient_checkpointing: options.GradientCheckpointing = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the complete spec and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw matrix.png beside the record.")] = False,
    use_predefine_args: Annotated[
        bool, typer.Option("--use-predefine-args", help="Accepted from the original toolkit: presets always apply.")
    ] = False,
) -> None:
    """Train a strategy on a benchmark and write a record."""
    repeated = None if source is None else _record_of(source, asked)
    spec = asked.spec() if repeated is None else _spec_of(repeated, source, asked)
    if dry_run:
        from nlpcl.runs.identity import identified

        if is_main_process():
            spec = identified(spec, data_root)
            _show_spec(spec, out / spec.id / "record.json", as_json)
        return
    from nlpcl.cli.display import ProgressReporter, print_record
    from nlpcl.cli.display import plot as draw
    from nlpcl.records.record import check_out
    from nlpcl.runs.run import run

    if is_main_process():
        check_out(out)
    quiet()
    record = run(
        spec,
        data_root=data_root,
        out=out,
        device=device,
        eval_batch_size=eval_batch_size,
        progress=ProgressReporter() if is_main_process() else None,
        checkpoint_minutes=checkpoint_minutes,
        fresh=fresh,
        compiled=compiled,
        gradient_checkpointing=gradient_checkpointing,
        repeated=repeated,
    )
    if not is_main_process():
        return
    path = out / record.id / "record.json"
    if plot:
        draw(record, path.with_name("matrix.png"))
    if as_json:
        answer = {"id": record.id, "record": str(path), "spec": record.spec, "matrices": record.matrices.model_dump()}
        print(json.dumps({**answer, "metrics": record.derived()}))
        return
    print_record(console, record)
    if plot:
        print(f"plot: {path.with_name('matrix.png')}")
    print(f"record: {path}")


def _record_of(source: Path, asked: Request) -> Record:
    """Return the record to repeat, and refuse options that would change the run."""
    changed = [FIELDS[name].flags[0] for name in asked.fields if name != "model"]
    changed += [name for name, values in (("--set", asked.assign), ("--preset", asked.presets)) if values]
    if changed:
        raise UsageError(f"--from repeats a run exactly, so it does not go with {', '.join(changed)}.")
    return Record.load(source)


def _spec_of(repeated: Record, source: Path | None, asked: Request) -> CompleteSpec:
    """Return the spec of the record to repeat; `--model` may say where its local encoder, or vector file, lies now."""
    spec, model = repeated.run_spec(), asked.fields.get("model")
    if model is not None and spec.model_sha256 is None:
        raise UsageError(f"{source}: --model can only say where a local encoder lies now, and {spec.model} is none.")
    spec = spec if model is None else spec.model_copy(update={"model": model})
    try:
        check_repeatable(spec)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error
    return spec


def _show_spec(spec: CompleteSpec, path: Path, as_json: bool) -> None:
    content = spec.model_dump(mode="json", exclude_unset=True)
    if as_json:
        print(json.dumps({"id": spec.id, "record": str(path), "spec": content}))
        return
    table = Table(show_header=False)
    for name, value in content.items():
        table.add_row(name, "" if value is None else str(value))
    console.print(table)
    print(f"record would be: {path}")
