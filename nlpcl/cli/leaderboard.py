"""`nlpcl leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nlpcl.cli.app import app, say, warn
from nlpcl.errors import UsageError

_RESULTS = Path("leaderboard/results")
_SITE = Path("build/leaderboard")
leaderboard = typer.Typer(help="File records for the leaderboard and build its page.", no_args_is_help=True)
app.add_typer(leaderboard, name="leaderboard")


@leaderboard.command("add")
def leaderboard_add(
    records: Annotated[list[Path], typer.Argument(help="One or more record.json.")],
    results: Annotated[Path, typer.Option("--results", help="Folder of results.")] = _RESULTS,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a filed record of the same spec.")] = False,
) -> None:
    """Check records and file them. docs/protocol.md says what is checked."""
    from nlpcl.leaderboard.submit import add, checked

    for path in records:
        if (checked(path).measured.git or {}).get("dirty"):
            warn(f"note: {path} was made from a source tree with changes that are in no commit")
    for target, new in add(records, results, replace=replace):
        say(f"filed: {target}" if new else f"already there: {target}")


@leaderboard.command("check")
def leaderboard_check(folder: Annotated[Path, typer.Argument(help="Folder of results.")] = _RESULTS) -> None:
    """Check that every record of a folder of results is sound and lies in its place."""
    from nlpcl.leaderboard.submit import check

    files, problems = check(folder)
    for problem in problems:
        say(problem)
    if problems:
        raise UsageError(f"{len(problems)} of {files} file(s) in {folder} must be mended or removed.")
    say(f"{folder}: {files} record(s) checked")


@leaderboard.command("build")
def leaderboard_build(
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; open its index.html.")] = _SITE,
    results: Annotated[Path, typer.Option("--results", help="Folder of results.")] = _RESULTS,
    published: Annotated[
        Path | None, typer.Option("--published", help="CSV file of published figures. Default: the package's own.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Also update the tables in this Markdown file.")
    ] = None,
) -> None:
    """Build the page from the folder of results. It needs neither server nor network."""
    from nlpcl.leaderboard.published import OURS, read_published
    from nlpcl.leaderboard.readme import update_readme
    from nlpcl.leaderboard.rows import gather, load
    from nlpcl.leaderboard.site import build

    runs, failed = load(results)
    rows, figures = gather(runs), read_published(published or OURS)
    build(rows, figures, out, results)
    say(f"{out / 'index.html'}: {len(rows)} result(s) of {len(runs)} run(s)")
    if failed:
        warn(f"note: {failed} failed run(s) not shown")
    if readme is not None:
        say(f"{readme}: {'updated' if update_readme(readme, rows, figures) else 'up to date'}")
