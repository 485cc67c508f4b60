"""`nlpcl run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from nlpcl.cli.app import NAMES, DataRoot, app, console, number_or_names, quiet, scenario_of
from nlpcl.errors import UsageError

if TYPE_CHECKING:
    from nlpcl.spec import RunSpec


def _assignments(pairs: list[str], strategy: str, backbone: str, benchmark: str) -> dict[str, Any]:
    """`--set name=value` as fields of a spec; strategy, backbone, benchmark, training are asked in turn."""
    if not pairs:
        return {}
    from nlpcl.options import options_of, parse_options
    from nlpcl.registry import backbones, benchmarks, strategies
    from nlpcl.spec import training_settings

    method, body, stream = strategies.get(strategy), backbones.get(backbone), benchmarks.get(benchmark)
    owners = {
        method.name: options_of(method.target, method.defaults),
        body.name: options_of(body.target),
        stream.name: options_of(stream.target),
        "training": training_settings(),
    }
    found = parse_options(pairs, owners)
    fields = dict(zip(owners, ("options", "backbone_options", "benchmark_options"), strict=False))
    return {fields[owner]: chosen for owner, chosen in found.items() if chosen and owner in fields} | found["training"]


def _epochs(text: str) -> int | dict[str, int]:
    """`5`, or by task `laptop=10,*=30`."""
    try:
        if "=" not in text:
            return int(text)
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        return {name.strip(): int(number) for name, _, number in pairs}
    except ValueError as error:
        raise UsageError(f"--epochs takes a number, or task=number,*=number, not {text!r}.") from error


@app.command(context_settings=NAMES)
def run(
    benchmark: Annotated[str | None, typer.Option("--benchmark", "--task", help="Default: demo.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", "--baseline", help="Default: ctr.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Default: bert_adapter for text, cnn for images.")] = None,
    scenario: Annotated[str | None, typer.Option(help="til (default), dil or cil.")] = None,
    order: Annotated[
        str | None, typer.Option("--order", "--idrandom", help="Number of a published order, seed:N, or names a,b,c.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--bert-model",
            help="An encoder: minilm (default), a folder or a hub name; for w2v and w2v_as a file of word vectors.",
        ),
    ] = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", "--num-train-epochs", help="Of each task, or laptop=10,*=30.")
    ] = None,
    train_batch_size: Annotated[int | None, typer.Option("--train-batch-size")] = None,
    eval_batch_size: Annotated[int, typer.Option("--eval-batch-size", min=1)] = 128,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", "--max-seq-length")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", "--ntasks", help="Only the first so many, or those named a,b,c.")
    ] = None,
    train_size: Annotated[
        int | None, typer.Option("--train-size", "--train-data-size", help="Training examples per task, at most.")
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option("--eval", help="Test after each task on: seen, full; or final.")
    ] = None,
    padding: Annotated[str | None, typer.Option(help="dynamic or fixed.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, tf32, bf16 or fp16.")] = None,
    data_root: DataRoot = None,
    out: Annotated[Path, typer.Option("--out", "--output-dir", help="Folder for records.")] = Path("runs"),
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, an option of strategy, backbone, benchmark or training; repeatable."),
    ] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Repeat the run of this record.json.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    checkpoint_minutes: Annotated[
        float,
        typer.Option(min=0, help="Save a checkpoint within a task every so many minutes; 0: never."),
    ] = 10,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, whatever checkpoints there are.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Run the encoder as code that torch compiles.")] = False,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Compute activations again in the backward pass: less memory."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the complete spec and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also draw the matrix, as matrix.png beside the record.")
    ] = False,
    use_predefine_args: Annotated[
        bool, typer.Option("--use-predefine-args", help="Accepted from the original toolkit: presets always apply.")
    ] = False,
) -> None:
    """Train a strategy on a benchmark and write a record."""
    given = {
        "benchmark": benchmark,
        "strategy": strategy,
        "backbone": backbone,
        "scenario": None if scenario is None else scenario_of(scenario),
        "order": None if order is None else number_or_names(order),
        "model": model,
        "epochs": None if epochs is None else _epochs(epochs),
        "train_batch_size": train_batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "seed": seed,
        "tasks": None if tasks is None else number_or_names(tasks),
        "train_size": train_size,
        "eval": evaluate,
        "padding": padding,
        "precision": precision,
    }
    given = {name: value for name, value in given.items() if value is not None}
    spec = _spec(given, assign or [], source)
    path = out / spec.id / "record.json"
    if dry_run:
        _show_spec(spec, path, as_json)
        return
    from nlpcl import experiment
    from nlpcl.display import ProgressReporter, print_record
    from nlpcl.display import plot as draw
    from nlpcl.records import check_out

    check_out(out)
    quiet()
    record = experiment.run(
        spec,
        data_root=data_root,
        out=out,
        device=device,
        eval_batch_size=eval_batch_size,
        progress=ProgressReporter(),
        checkpoint_minutes=checkpoint_minutes,
        fresh=fresh,
        compiled=compiled,
        gradient_checkpointing=gradient_checkpointing,
    )
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


def _spec(given: dict[str, Any], assign: list[str], source: Path | None) -> RunSpec:
    from nlpcl.spec import RunSpec

    if source is None:
        from nlpcl.registry import default_backbone

        named = RunSpec.parse(given)
        backbone = named.backbone or default_backbone(named.benchmark)
        own = _assignments(assign, named.strategy, backbone, named.benchmark)
        return RunSpec.parse({**given, **own}).filled()
    changed = [*given, *(["set"] if assign else [])]
    if changed:
        options = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise UsageError(f"--from repeats a run exactly, so it does not go with {options}.")
    from nlpcl.records import Record

    return Record.load(source).run_spec()


def _show_spec(spec: RunSpec, path: Path, as_json: bool) -> None:
    content = spec.model_dump(mode="json", exclude_unset=True)
    if as_json:
        print(json.dumps({"id": spec.id, "record": str(path), "spec": content}))
        return
    table = Table(show_header=False)
    for name, value in content.items():
        table.add_row(name, "" if value is None else str(value))
    console.print(table)
    print(f"record would be: {path}")
