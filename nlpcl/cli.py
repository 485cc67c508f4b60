"""The command line: `nlpcl run`, `nlpcl list`, `nlpcl info`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nlpcl.errors import UsageError, suggest

if TYPE_CHECKING:
    from nlpcl.spec import RunSpec

# `--bert_model` and `--bert-model` are one option.
NAMES: Any = {"token_normalize_func": lambda name: name.replace("_", "-"), "help_option_names": ["-h", "--help"]}
app = typer.Typer(
    help="Continual learning for NLP, as an extension of Avalanche.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=NAMES,
)
console = Console(markup=False)
# Typer's parser raises this or a subclass; which module it lives in changed with Typer's versions.
ParserError: Any = typer.BadParameter.__base__


def _scenario(text: str) -> str:
    """`til`, `til_classification`, `TIL`, `task-incremental` are one word."""
    word = text.lower().replace("_", "-").removesuffix("-classification")
    names = {"til": "til", "dil": "dil", "task-incremental": "til", "domain-incremental": "dil"}
    if word not in names:
        raise UsageError(f"unknown scenario {text!r}. {suggest(word, names)}")
    return names[word]


def _order(text: str) -> int | list[str]:
    try:
        return int(text)
    except ValueError:
        return [name.strip() for name in text.split(",") if name.strip()]


def _assignments(pairs: list[str], strategy: str, backbone: str) -> dict[str, dict[str, Any]]:
    """`--set name=value` as options of the strategy, or else of the backbone."""
    if not pairs:
        return {}
    from nlpcl.options import options_of
    from nlpcl.registry import backbones, strategies

    method, body = strategies.get(strategy), backbones.get(backbone)
    own, other = options_of(method.target, method.defaults), options_of(body.target)
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set takes name=value, not {pair!r}.")
        if name in own:
            found.setdefault("options", {})[name] = own[name].parse(text)
        elif name in other:
            found.setdefault("backbone_options", {})[name] = other[name].parse(text)
        else:
            known = suggest(name, [*own, *other])
            raise UsageError(f"neither {method.name} nor {body.name} has an option {name!r}. {known}")
    return found


@app.command(context_settings=NAMES)
def run(
    benchmark: Annotated[str | None, typer.Option("--benchmark", "--task", help="Default: demo.")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", "--baseline", help="Default: ctr.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Default: bert_adapter for text, cnn for images.")] = None,
    scenario: Annotated[str | None, typer.Option(help="til (default) or dil.")] = None,
    order: Annotated[
        str | None, typer.Option("--order", "--idrandom", help="Number of a published order, or task names a,b,c.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "--bert-model", help="minilm (default), a folder or a hub name.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", "--num-train-epochs")] = None,
    train_batch_size: Annotated[int | None, typer.Option("--train-batch-size")] = None,
    eval_batch_size: Annotated[int, typer.Option("--eval-batch-size", min=1)] = 128,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", "--max-seq-length")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    tasks: Annotated[int | None, typer.Option("--tasks", "--ntasks", help="Only the first so many.")] = None,
    train_size: Annotated[
        int | None, typer.Option("--train-size", "--train-data-size", help="Training examples per task, at most.")
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option("--eval", help="Test after each task on: seen, full; or final.")
    ] = None,
    padding: Annotated[str | None, typer.Option(help="dynamic or fixed.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    data_root: Annotated[
        str | None, typer.Option("--data-root", "--data-dir", envvar="NLPCL_DATA", help="Folder with the data.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "--output-dir", help="Folder for records.")] = Path("runs"),
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="name=value, an option of the strategy or backbone; repeatable.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Repeat the run of this record.json.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
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
        "scenario": None if scenario is None else _scenario(scenario),
        "order": None if order is None else _order(order),
        "model": model,
        "epochs": epochs,
        "train_batch_size": train_batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "seed": seed,
        "tasks": tasks,
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
    _quiet()
    record = experiment.run(
        spec,
        data_root=data_root,
        out=out,
        device=device,
        eval_batch_size=eval_batch_size,
        progress=ProgressReporter(),
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
        return RunSpec.parse({**given, **_assignments(assign, named.strategy, backbone)}).filled()
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


def _quiet() -> None:
    """Keep the libraries' own bars and warnings out of ours."""
    import warnings

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="avalanche")


@app.command("list", context_settings=NAMES)
def list_(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Strategies, benchmarks and backbones that can be named."""
    from nlpcl.registry import backbones, benchmarks, strategies

    content = {
        "strategies": [_facts(entry) for entry in strategies.entries()],
        "benchmarks": [_facts(entry) for entry in benchmarks.entries()],
        "backbones": [_facts(entry) for entry in backbones.entries()],
    }
    if as_json:
        print(json.dumps(content))
        return
    for kind, rows in content.items():
        table = Table(title=kind, title_justify="left")
        columns = [c for c in ("name", "title", "scenarios", "backbones", "protocol") if any(c in row for row in rows)]
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column, "")) for column in columns))
        console.print(table)


@app.command(context_settings=NAMES)
def info(name: Annotated[str, typer.Argument(help="A strategy, benchmark or backbone.")]) -> None:
    """What is known about a strategy, benchmark or backbone, and its options."""
    from nlpcl.options import MISSING, options_of
    from nlpcl.registry import backbones, benchmarks, strategies

    known: list[str] = []
    for registry in (strategies, benchmarks, backbones):
        try:
            entry: Any = registry.get(name)
            break
        except UsageError:
            known += registry.names()
    else:
        raise UsageError(f"unknown name {name!r}. {suggest(name, known)}")
    ours = entry.target.__module__.startswith("nlpcl")
    print(inspect.getdoc(sys.modules[entry.target.__module__] if ours else entry.target) or "")
    table = Table(show_header=False)
    for field, value in _facts(entry).items():
        table.add_row(field, _cell(value))
    console.print(table)
    is_class = isinstance(entry.target, type)
    options = options_of(entry.target, getattr(entry, "defaults", None)) if is_class else {}
    if options:
        table = Table(title="options (--set name=value)", title_justify="left")
        for column in ("name", "type", "default", "meaning"):
            table.add_column(column, overflow="fold")
        for option in options.values():
            default = "required" if option.default is MISSING else str(option.default)
            table.add_row(option.name, option.type_name, default, option.help)
        console.print(table)


def _facts(entry: Any) -> dict[str, Any]:
    hidden = {"target", "engine", "defaults", "presets", "reason"}
    found = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name not in hidden}
    return {name: value for name, value in found.items() if value not in ("", None)}


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a user's mistake, 130 interrupted."""
    try:
        outcome = app(args=argv, prog_name="nlpcl", standalone_mode=False)
    except UsageError as error:
        message = str(error)
    except ParserError as error:
        message = error.format_message()
    except (KeyboardInterrupt, typer.Abort):
        print("nlpcl: interrupted", file=sys.stderr)
        return 130
    else:
        return outcome if isinstance(outcome, int) else 0
    if message:  # none where the help was shown instead
        print(f"nlpcl: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def entry_point() -> None:
    """What the `nlpcl` script calls."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main())
