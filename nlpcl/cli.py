"""The command line: `nlpcl run`, `list`, `info` and `data`."""

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
from nlpcl.registry import SCENARIOS

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
    names = {"til": "til", "dil": "dil", "cil": "cil"} | {full: short for short, full in SCENARIOS.items()}
    if word not in names:
        raise UsageError(f"unknown scenario {text!r}. {suggest(word, names)}")
    return names[word]


def _number_or_names(text: str) -> int | str | list[str]:
    """`3`, `seed:7`, or names joined by commas."""
    try:
        return int(text)
    except ValueError:
        return text if text.startswith("seed:") else [name.strip() for name in text.split(",") if name.strip()]


def _assignments(pairs: list[str], strategy: str, backbone: str, benchmark: str) -> dict[str, dict[str, Any]]:
    """`--set name=value` as options of the strategy, the backbone or the benchmark, whichever has that name first."""
    if not pairs:
        return {}
    from nlpcl.options import options_of, parse_options
    from nlpcl.registry import backbones, benchmarks, strategies

    method, body, stream = strategies.get(strategy), backbones.get(backbone), benchmarks.get(benchmark)
    owners = {
        method.name: options_of(method.target, method.defaults),
        body.name: options_of(body.target),
        stream.name: options_of(stream.target),
    }
    fields = dict(zip(owners, ("options", "backbone_options", "benchmark_options"), strict=True))
    return {fields[owner]: chosen for owner, chosen in parse_options(pairs, owners).items() if chosen}


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
    epochs: Annotated[int | None, typer.Option("--epochs", "--num-train-epochs")] = None,
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
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    data_root: Annotated[
        str | None, typer.Option("--data-root", "--data-dir", envvar="NLPCL_DATA", help="Folder with the data.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "--output-dir", help="Folder for records.")] = Path("runs"),
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, an option of strategy, backbone or benchmark; repeatable."),
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
        "order": None if order is None else _number_or_names(order),
        "model": model,
        "epochs": epochs,
        "train_batch_size": train_batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "seed": seed,
        "tasks": None if tasks is None else _number_or_names(tasks),
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


def _quiet() -> None:
    """Keep the libraries' own bars and warnings out of ours."""
    import warnings

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="avalanche")


@app.command("list", context_settings=NAMES)
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Which strategy runs on which backbone.")] = False,
) -> None:
    """Strategies, benchmarks and backbones that can be named."""
    from nlpcl.registry import backbones, benchmarks, strategies

    if matrix:
        _show_matrix(as_json)
        return
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


def _show_matrix(as_json: bool) -> None:
    """Strategies on backbones, and how that compares with what the original toolkit documents."""
    from nlpcl.coverage import DOCUMENTED, SOURCE, missing, strategy_matrix

    found = strategy_matrix()
    absent, pairs = missing(found), sum(map(len, DOCUMENTED.values()))
    if as_json:
        print(json.dumps({"matrix": found, "documented": DOCUMENTED, "source": SOURCE, "missing": absent}))
        return
    from nlpcl.display import strategy_table

    console.print(strategy_table(found))
    print(f"of {pairs} pairs that {SOURCE} has, {pairs - len(absent)} run here")
    if absent:
        print(f"not yet: {', '.join(absent)}")


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
    options = options_of(entry.target, getattr(entry, "defaults", None))
    if options:
        table = Table(title="options (--set name=value)", title_justify="left")
        for column in ("name", "type", "default", "meaning"):
            table.add_column(column, overflow="fold")
        for option in options.values():
            default = "required" if option.default is MISSING else str(option.default)
            table.add_row(option.name, option.type_name, default, option.help)
        console.print(table)


data = typer.Typer(help="Fetch, check and list the data of benchmarks.", no_args_is_help=True, context_settings=NAMES)
app.add_typer(data, name="data")
Root = Annotated[
    str | None, typer.Option("--data-root", "--data-dir", envvar="NLPCL_DATA", help="Folder with the data.")
]


@data.command("prepare", context_settings=NAMES)
def data_prepare(
    benchmark: Annotated[str, typer.Argument(help="Its name.")],
    model: Annotated[str, typer.Option("--model", help="The encoder whose tokenizer counts.")] = "minilm",
    max_length: Annotated[int, typer.Option("--max-length", min=8)] = 128,
    data_root: Root = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="name=value, an option of the benchmark.")] = None,
) -> None:
    """Download what is missing, check it, tokenise it, and show the tasks."""
    stream = _stream(benchmark, model, max_length, data_root, assign)
    splits = [name for name in stream.sizes[0] if name not in ("name", "labels")]
    table = Table(title=f"{benchmark}: examples of each task", title_justify="left")
    for column in ("task", "classes", *splits):
        table.add_column(column, justify="left" if column == "task" else "right")
    for size in stream.sizes:
        table.add_row(size["name"], str(len(size["labels"])), *(str(size[split]) for split in splits))
    table.add_row("all", "", *(str(sum(size[split] for size in stream.sizes)) for split in splits))
    console.print(table)


@data.command("verify", context_settings=NAMES)
def data_verify(
    benchmark: Annotated[str, typer.Argument(help="Its name.")],
    data_root: Root = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="name=value, an option of the benchmark.")] = None,
) -> None:
    """Check every file of a benchmark, and show the SHA-256 of each."""
    stream = _stream(benchmark, "minilm", 128, data_root, assign)
    for path, digest in sorted(stream.files.items()):
        print(f"{digest}  {path}")
    print(f"{benchmark}: {len(stream.files)} file(s) read and checked")


@data.command("list", context_settings=NAMES)
def data_list() -> None:
    """Benchmarks with the source and licence of their data, and where copies are kept."""
    from nlpcl.benchmarks.cache import cache_folder
    from nlpcl.registry import benchmarks

    table = Table(show_lines=True)
    for column in ("benchmark", "source", "licence"):
        table.add_column(column, overflow="fold")
    for entry in benchmarks.entries():
        table.add_row(entry.name, entry.source, entry.licence)
    console.print(table)
    folder = cache_folder().parent
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"downloads and tokenised text: {size / 1e6:.1f} MB in {folder}")


def _stream(name: str, model: str, max_length: int, data_root: str | None, assign: list[str] | None) -> Any:
    from nlpcl.options import check_options, options_of, parse_options
    from nlpcl.registry import benchmarks

    _quiet()
    entry = benchmarks.get(name)
    options = options_of(entry.target)
    chosen = check_options(entry.name, options, parse_options(assign or [], {entry.name: options})[entry.name])
    text = {"tokenizer": model, "max_length": max_length} if entry.modality == "text" else {}
    return entry.target(entry.scenarios[0], 0, root=data_root, **text, **chosen)


def _facts(entry: Any) -> dict[str, Any]:
    hidden = {"target", "engine", "defaults", "presets", "reason"}
    found = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name not in hidden}
    return {name: value for name, value in found.items() if value not in ("", None, ())}


def _cell(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return "{} training, {} validation and {} test examples in order 0".format(*value)
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
