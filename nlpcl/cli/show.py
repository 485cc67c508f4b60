"""`nlpcl list` and `nlpcl info`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from typing import Annotated, Any

import typer

from nlpcl.cli.app import app, console, say, table
from nlpcl.cli.coverage import DOCUMENTED, PYCONTINUAL, missing, strategy_matrix
from nlpcl.errors import UsageError, UsageErrors, suggest
from nlpcl.options import MISSING
from nlpcl.ranges import in_words
from nlpcl.registry import backbones, benchmarks, strategies


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Show which strategy runs on which backbone.")] = False,
) -> None:
    """List the strategies, benchmarks and backbones."""
    if matrix:
        _show_matrix(as_json)
        return
    content = {
        "strategies": [_facts(entry) for entry in strategies.entries()],
        "benchmarks": [_facts(entry) for entry in benchmarks.entries()],
        "backbones": [_facts(entry) for entry in backbones.entries()],
    }
    if as_json:
        say(json.dumps(content))
        return
    for kind, rows in content.items():
        columns = [c for c in ("name", "title", "scenarios", "backbones", "protocol") if any(c in row for row in rows)]
        console.print(table(columns, [[_cell(row.get(column, "")) for column in columns] for row in rows], kind))


def _show_matrix(as_json: bool) -> None:
    """Show which strategy runs on which backbone, and how that compares with the original toolkit's documentation."""
    pairs_here = strategy_matrix()
    absent, documented = missing(pairs_here), sum(map(len, DOCUMENTED.values()))
    if as_json:
        say(json.dumps({"matrix": pairs_here, "documented": DOCUMENTED, "source": PYCONTINUAL, "missing": absent}))
        return
    rows = [
        [name, *(" ".join(scenario[0].upper() for scenario in cell) or "-" for cell in row.values())]
        for name, row in pairs_here.items()
    ]
    columns = ["strategy", *(name.replace("_", "_\n") for name in backbones.names())]
    title = "strategies on backbones (T: til, D: dil, and cil where labels differ; C: cil alone)"
    console.print(table(columns, rows, title))
    say(f"of {documented} pairs that {PYCONTINUAL} has, {documented - len(absent)} run here")
    if absent:
        say(f"not yet: {', '.join(absent)}")


@app.command()
def info(name: Annotated[str, typer.Argument(help="A strategy, benchmark or backbone.")]) -> None:
    """Describe a strategy, benchmark or backbone and its options."""
    known: list[str] = []
    faults: list[str] = []
    broken: UsageError | None = None
    for registry in (strategies, benchmarks, backbones):
        try:
            entry: Any = registry.get(name)
            break
        except UsageError as error:
            known += registry.names()
            faults += registry.faults
            broken = error if error.__cause__ else broken  # something of this name does not load
    else:
        if broken is not None:
            raise broken
        raise UsageErrors(f"unknown name {name!r}. {suggest(name, known)}", faults)
    ours = entry.target.__module__.startswith("nlpcl")
    for line in (inspect.getdoc(sys.modules[entry.target.__module__] if ours else entry.target) or "").split("\n"):
        say(line)
    console.print(table(["", ""], [(field, _cell(value)) for field, value in _facts(entry).items()]))
    options = [
        (o.name, in_words(o.annotation), "required" if o.default is MISSING else str(o.default), o.help)
        for o in entry.options.declared().values()
    ]
    if options:
        console.print(table(("name", "type", "default", "meaning"), options, "options (--set name=value)"))


def _facts(entry: Any) -> dict[str, Any]:
    hidden = {"target", "engine", "presets", "reason", "published", "known", "own_files", "options"}
    facts = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name not in hidden}
    return {name: value for name, value in facts.items() if value not in ("", None, ())}


def _cell(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return "{} training, {} validation and {} test examples in order 0".format(*value)
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
