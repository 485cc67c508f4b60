"""`nlpcl compare`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from nlpcl.cli.app import app, console, say
from nlpcl.errors import UsageError, escaped

_RESULTS = (Path("runs"), Path("leaderboard/results"))


@app.command("compare")
def compare_command(
    methods: Annotated[list[str], typer.Argument(help="strategy, strategy@backbone, a record or a folder of records.")],
    metric: Annotated[str, typer.Option(help="average_accuracy, macro_f1, forgetting, ...")] = "average_accuracy",
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Folder with records; repeatable. Default: runs and leaderboard/results."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="field=value: use only records with this value; repeatable.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="Field in which the protocols may differ; repeatable.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of significance.")] = 0.05,
    form: Annotated[
        Literal["table", "markdown", "latex", "csv", "json"], typer.Option("--format", help="Output format.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the critical-difference diagram: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Compare methods, paired over orders and seeds, if they ran under one protocol."""
    from nlpcl.leaderboard import report
    from nlpcl.leaderboard.compare import compare
    from nlpcl.leaderboard.files import read_runs, select_runs

    fields = dict(_field(text) for text in where or [])
    for folder in results or []:
        if not folder.is_dir():
            raise UsageError(f"--results: there is no folder {folder}.")
    pool = [run for folder in results or _RESULTS for run in read_runs(folder)]
    comparison = compare(select_runs(methods, pool, fields), metric, allow=allow or (), alpha=alpha)
    if plot is not None:
        report.plot_ranks(comparison, plot)
    if as_json or form == "json":
        say(json.dumps(report.as_json(comparison)))
    elif form == "table":
        for content in report.tables(comparison):
            _show(*content)
        for sentence in report.sentences(comparison):
            console.print(escaped(sentence), highlight=False)
    else:
        write = {"markdown": report.markdown, "latex": report.latex, "csv": report.as_csv}[form]
        for line in write(comparison).rstrip("\n").split("\n"):
            say(line)


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--where takes field=value, not {text!r}.")
    return name.strip(), value.strip()


def _show(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=caption, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        last = i == len(columns) - 1
        table.add_column(column.replace(" p", "\np"), justify="right" if i else "left", no_wrap=i > 0 and not last)
    for row in rows:
        table.add_row(*map(escaped, row))
    console.print(table)
    console.print()
