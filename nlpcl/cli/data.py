"""`nlpcl data`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nlpcl.cli.app import app, console, quiet, say, table
from nlpcl.options import check_options, parse_options
from nlpcl.registry import benchmarks
from nlpcl.sweeps.cells import DataRoot

LABELS_SHOWN = 20
TASKS_SHOWN = 5

data = typer.Typer(help="Fetch, check and list the data of benchmarks.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.command("prepare")
def data_prepare(
    benchmark: Annotated[str, typer.Argument(help="Name of the benchmark.")],
    model: Annotated[str, typer.Option("--model", help="Encoder whose tokenizer is used.")] = "minilm",
    max_length: Annotated[int, typer.Option("--max-length", min=8)] = 128,
    scenario: Annotated[
        str | None, typer.Option(help="Til, dil or cil. Default: the first that the stream has.")
    ] = None,
    data_root: DataRoot = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="name=value: an option of the benchmark.")] = None,
) -> None:
    """Download, check and tokenise the data; show tasks and labels, and warn of what may spoil a result."""
    stream = _stream(benchmark, data_root, assign, scenario, tokenizer=model, max_length=max_length)
    splits = [name for name in stream.sizes[0] if name not in ("name", "labels")]
    rows = [[size["name"], str(len(size["labels"])), *(str(size[split]) for split in splits)] for size in stream.sizes]
    rows.append(["all", "", *(str(sum(size[split] for size in stream.sizes)) for split in splits)])
    figures = ["classes", *splits]
    console.print(table(["task", *figures], rows, f"{benchmark}: examples of each task", figures))
    tasks_of: dict[str, list[str]] = {}
    for size in stream.sizes:
        tasks_of.setdefault(_shortened(size["labels"], LABELS_SHOWN), []).append(size["name"])
    for words, tasks in tasks_of.items():
        say(f"labels of {'every task' if len(tasks_of) == 1 else _shortened(tasks, TASKS_SHOWN)}: {words}")
    for note in stream.notes:
        say(f"note: {note}")


def _shortened(words: Sequence[str], shown: int) -> str:
    more = f" and {len(words) - shown} more" if len(words) > shown else ""
    return ", ".join(words[:shown]) + more


@data.command("verify")
def data_verify(
    benchmark: Annotated[str, typer.Argument(help="Name of the benchmark.")],
    data_root: DataRoot = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="name=value: an option of the benchmark.")] = None,
) -> None:
    """Check every file of a benchmark and show its SHA-256."""
    stream = _stream(benchmark, data_root, assign)
    for path, digest in sorted(stream.files.items()):
        say(f"{digest}  {path}")
    say(f"{benchmark}: {len(stream.files)} file(s) read and checked")


@data.command("list")
def data_list() -> None:
    """List the benchmarks with the source and licence of their data, and show where copies are kept."""
    from nlpcl.benchmarks._files.cache import cache_folder

    rows = [(entry.name, entry.source, entry.licence) for entry in benchmarks.entries()]
    console.print(table(("benchmark", "source", "licence"), rows))
    folder = cache_folder().parent
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"downloads and tokenised text: {size / 1e6:.1f} MB in {folder}")


def _stream(name: str, root: str | None, assign: list[str] | None, scenario: str | None = None, **text: Any) -> Any:
    """Return a benchmark; `text` are further arguments of those of text."""
    quiet()
    entry = benchmarks.get(name)
    options = entry.options.declared()
    chosen = check_options(entry.name, options, parse_options(assign or [], {entry.name: options})[entry.name])
    more = {"tokenizer": "minilm", **text} if entry.modality == "text" else {}
    return entry.target(scenario or entry.scenarios[0], 0, root=root, **more, **chosen)
