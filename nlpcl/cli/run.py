"""`nlpcl run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nlpcl.cli.app import app, console, quiet, say, table
from nlpcl.cli.display import ProgressReporter, draw, print_record
from nlpcl.cli.options import asks_for_a_run
from nlpcl.config.arguments import Request
from nlpcl.config.resolve import check_repeatable
from nlpcl.config.spec import FIELDS, CompleteSpec
from nlpcl.errors import UsageError, about
from nlpcl.records.record import Record, check_out
from nlpcl.sweeps.cells import Execution
from nlpcl.training.launch import is_main_process


@app.command("run")
@asks_for_a_run
def run_command(
    asked: Request,
    execution: Execution,
    source: Annotated[Path | None, typer.Option("--from", help="Repeat the run of this record.json.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, without checkpoints or old record.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the complete spec and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw matrix.png beside the record.")] = False,
    use_predefine_args: Annotated[
        bool, typer.Option("--use-predefine-args", help="Accepted from the original toolkit: presets always apply.")
    ] = False,
) -> None:
    """Train a strategy on a benchmark and write a record."""
    repeated, spec = (None, asked.spec()) if source is None else _repeated(source, asked)
    out = execution.out
    if dry_run:
        from nlpcl.runs.identity import identified

        if is_main_process():
            spec = identified(spec, execution.data_root)
            _show_spec(spec, out / spec.id / "record.json", as_json)
        return
    from nlpcl.runs.run import run

    if is_main_process():
        check_out(out)
    quiet()
    record = run(
        spec,
        data_root=execution.data_root,
        out=out,
        device=execution.device,
        eval_batch_size=execution.eval_batch_size,
        progress=ProgressReporter() if is_main_process() else None,
        checkpoint_minutes=execution.checkpoint_minutes,
        fresh=fresh,
        compiled=execution.compile,
        gradient_checkpointing=execution.gradient_checkpointing,
        repeated=repeated,
    )
    if not is_main_process():
        return
    path = out / record.id / "record.json"
    if plot:
        draw(record, path.with_name("matrix.png"))
    if as_json:
        answer = {"id": record.id, "record": str(path), "spec": record.spec, "matrices": record.matrices.model_dump()}
        say(json.dumps({**answer, "metrics": record.derived()}))
        return
    print_record(console, record)
    if plot:
        say(f"plot: {path.with_name('matrix.png')}")
    say(f"record: {path}")


def _repeated(source: Path, asked: Request) -> tuple[Record, CompleteSpec]:
    """Return the record to repeat and its spec, and refuse options that would change the run.

    `--model` may say where the record's local encoder, or vector file, lies now.
    """
    changed = [FIELDS[name].flags[0] for name in asked.fields if name != "model"]
    changed += [name for name, values in (("--set", asked.assign), ("--preset", asked.presets)) if values]
    if changed:
        raise UsageError(f"--from repeats a run exactly, so it does not go with {', '.join(changed)}.")
    record = Record.load(source)
    spec, model = record.run_spec(), asked.fields.get("model")
    with about(str(source)):
        if model is not None and spec.model_sha256 is None:
            raise UsageError(f"--model can only say where a local encoder lies now, and {spec.model} is none.")
        spec = spec if model is None else spec.model_copy(update={"model": model})
        check_repeatable(spec)
    return record, spec


def _show_spec(spec: CompleteSpec, path: Path, as_json: bool) -> None:
    content = spec.model_dump(mode="json", exclude_unset=True)
    if as_json:
        say(json.dumps({"id": spec.id, "record": str(path), "spec": content}))
        return
    rows = [(name, "" if value is None else str(value)) for name, value in content.items()]
    console.print(table(["", ""], rows))
    say(f"record would be: {path}")
