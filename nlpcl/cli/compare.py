"""`nlpcl compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from nlpcl.cli.app import app, console, say, table
from nlpcl.errors import UsageError, escaped
from nlpcl.options import assignment

_RESULTS = (Path("runs"), Path("leaderboard/results"))


@app.command("compare")
def compare_command(
    methods: Annotated[list[str], typer.Argument(help="strategy, strategy@backbone, a record or a folder of records.")],
    metric: Annotated[str, typer.Option(help="average_accuracy, macro_f1, forgetting, ...")] = "average_accuracy",
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with records; repeatable. Default: runs and leaderboard/results."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="field=value: use only records with this value; repeatable.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Field in which the protocols may differ; repeatable.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of significance.")] = 0.05,
    form: Annotated[
        Literal["table", "markdown", "latex", "csv", "json"], typer.Option("--format", help="Output format.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the critical-difference diagram: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Compare methods, paired over orders and seeds, if they ran under one protocol."""
    from nlpcl.leaderboard import report
    from nlpcl.leaderboard.compare import compare
    from nlpcl.leaderboard.files import read_runs, select_runs

    fields = dict(assignment(pair, "--where") for pair in where or [])
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
            console.print(table(content.columns, content.rows, content.caption, content.columns[1:]))
        for sentence in report.sentences(comparison):
            console.print(escaped(sentence), highlight=False)
    else:
        write = {"markdown": report.markdown, "latex": report.latex, "csv": report.as_csv}[form]
        for line in write(comparison).rstrip("\n").split("\n"):
            say(line)
