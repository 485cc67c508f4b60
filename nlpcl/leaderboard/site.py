"""The leaderboard as a folder of files that a browser opens without a server or a network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from nlpcl import __version__
from nlpcl.config.files import file_errors, write_atomically
from nlpcl.errors import UsageError, printable
from nlpcl.leaderboard import cells, figures
from nlpcl.leaderboard.cells import shown, spread
from nlpcl.leaderboard.compare import PAIRED_BY
from nlpcl.leaderboard.files import Block, Run, as_text
from nlpcl.leaderboard.published import Figures, beside
from nlpcl.leaderboard.rows import RANKED, Row, by_protocol

GENERATOR = "nlpcl leaderboard"
RUNS_A_SHARD = 40
MOST_COLUMNS = 8
FILTERS = ("benchmark", "scenario", "backbone", "encoder")


def build(rows: Sequence[Row], published: Figures, out: Path, results: Path) -> None:
    """Write the site. Each file is replaced as a whole or not at all.

    :param rows: as `rows.gather` gives them.
    :param out: folder of the site, made if need be; its `index.html` is the page.
    :param results: folder that the rows were read from. The page shows this path, or the last two parts of an absolute
        path (`leaderboard/results`), as no reader has the others.
    :raises UsageError: the folder holds another page, it cannot be written, or plotly or itables is missing.
    """
    index = out / "index.html"
    with file_errors(f"could not write the site to {out}"):
        if index.exists() and GENERATOR not in index.read_text(encoding="utf-8", errors="replace"):
            raise UsageError(f"{index} is another page: choose another --out.")
        written = set()
        for name, content in _contents(rows, published, results):
            write_atomically(out / name, content)
            written.add(out / name)
        for stale in set((out / "details").glob("[0-9]*.js")) - written:
            stale.unlink()


def _contents(rows: Sequence[Row], published: Figures, results: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of the site, the page last."""
    yield from _libraries()
    page = files("nlpcl.leaderboard") / "page"
    for name in ("page.css", "page.js"):
        yield name, (page / name).read_bytes()
    shard_of: dict[str, str] = {}
    for number, (shard, peers) in enumerate(_shards(rows)):
        name = f"details/{number:04}.js"
        shard_of |= {row.id: name for row in shard}
        machines = sorted({shown(figures.machine(run)) for row in peers for run in row.runs.values()})
        details = {row.id: _detail(row, published, results) for row in shard}
        content = {"cost": figures.cost(peers), "machines": machines, "rows": details}
        yield name, _script(f"leaderboard.shards[{json.dumps(name)}]", content)
    columns = [{"name": name, "title": title, "best": best} for name, title, best in cells.PAGE_COLUMNS]
    settings = cells.settings_of(rows)
    table = [
        {**cells.row_cells(row, settings[row.strategy, row.setting], published), "shard": shard_of[row.id]}
        for row in rows
    ]
    yield "rows.js", _script("var leaderboard", {"columns": columns, "rows": table, "shards": {}})
    yield "index.html", _page(rows, table).encode(errors="replace")


def _libraries() -> Iterator[tuple[str, bytes]]:
    try:
        tables, plotly = files("itables") / "html", files("plotly") / "package_data"
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs {error.name}: pip install 'nlpcl[leaderboard]'.") from error
    # A page that is opened from a file may not import a module file, but may import a module made from a text.
    module = json.dumps((tables / "dt_bundle.js").read_text(encoding="utf-8"))
    blob = f'URL.createObjectURL(new Blob([{module}], {{type: "text/javascript"}}))'
    yield "datatables.js", f"var datatables = import({blob});\n".encode()
    yield "datatables.css", (tables / "dt_bundle.css").read_bytes()
    yield "plotly.js", (plotly / "plotly.min.js").read_bytes()


def _script(name: str, content: Any) -> bytes:
    return f"{name} = {json.dumps(content, allow_nan=False, separators=(',', ':'))};\n".encode()


def _shards(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield rows of one protocol with about `RUNS_A_SHARD` runs, together with all rows of that protocol."""
    for peers in by_protocol(rows):
        shard: list[Row] = []
        for row in peers:
            if shard and sum(len(r.runs) for r in (*shard, row)) > RUNS_A_SHARD:
                yield shard, peers
                shard = []
            shard.append(row)
        yield shard, peers


def _page(rows: Sequence[Row], table: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Environment

    template = (files("nlpcl.leaderboard") / "page" / "index.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        generator=GENERATOR,
        version=__version__,
        runs=sum(len(row.runs) for row in rows),
        rows=len(rows),
        filters={name: sorted({row[name] for row in table} - {""}) for name in FILTERS},
        columns=cells.PAGE_COLUMNS,
        overview=overview(rows),
    )


def overview(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a table of mean accuracy: methods down, and across the protocols with the most methods.

    A cell's `share`, in [0, 1], is its place between the lowest and the highest mean of its column.
    """
    columns = by_protocol([row for row in rows if row.scores[RANKED] is not None])
    most = sorted(columns, key=len, reverse=True)[:MOST_COLUMNS]
    settings = cells.settings_of(rows)
    methods: dict[tuple[str, str], tuple[str, dict[int, dict[str, Any]]]] = {}
    for number, members in enumerate(most):
        means = [score.mean for row in members if (score := row.scores[RANKED])]
        low, high = min(means), max(means)
        for row, mean in zip(members, means, strict=True):
            share = (mean - low) / (high - low) if high > low else 1.0
            cell = {"id": row.id, "text": spread(row.scores[RANKED]), "share": round(share, 3), "best": mean == high}
            methods.setdefault((row.strategy, row.setting), (cells.method_name(row, settings), {}))[1][number] = cell
    heads = [cells.protocol_words(members[0].protocol) for members in most]
    lines = [(name, [line.get(i) for i in range(len(most))]) for name, line in methods.values()]
    return {"heads": heads, "lines": lines, "protocols": len(columns)}


def _detail(row: Row, published: Figures, results: Path) -> dict[str, Any]:
    tiles = [[f"{name.replace('_', ' ')}, %", spread(score)] for name, score in row.scores.items() if score is not None]
    notes = [row.draw]
    if row.rank:
        tiles.append(["average rank", f"{row.rank.value:.2f}"])
        notes.append(f"Average rank {row.rank.basis}.")
    for metric in row.scores:
        figure = beside(row, published, metric)
        if figure is not None:
            tiles.append([f"published {metric.replace('_', ' ')}, %", figure.value_as_text])
            notes.append(f"Published: {figure.source}.")
            notes.append(f"† Of another protocol: {'; '.join(figure.unlike)}." if figure.unlike else "")
    spec = next(iter(row.runs.values())).spec
    settings = [[shown(name), shown(as_text(value))] for name, value in sorted(spec.items()) if value is not None]
    return {
        "scores": tiles,
        "notes": [printable(note) for note in dict.fromkeys(notes) if note],
        "settings": [pair for pair in settings if pair[0] not in PAIRED_BY],
        "over_time": figures.over_time(row.runs),
        "runs": [_run(block, run, results) for block, run in row.runs.items()],
    }


def _run(block: Block, run: Run, results: Path) -> dict[str, Any]:
    root = Path(*results.parts[1:][-2:]) if results.is_absolute() else results
    path = (root / run.path.relative_to(results)).as_posix()
    return {
        "name": shown(figures.block_name(block)),
        "command": f"nlpcl run --from {shlex.quote(printable(path))}",
        "environment": [[shown(name), shown(value)] for name, value in environment(run)],
        "matrix": figures.matrix(run),
        "forgotten": figures.forgotten(run),
    }


def environment(run: Run) -> list[tuple[str, str]]:
    """Return name and value of what is known of a run's machine, cost and versions."""
    measured, versions = run.record.measured, run.record.versions
    git = measured.git or {}
    commit = f"{git.get('commit', '')}{' with changes' if git.get('dirty') else ''}"
    facts: dict[str, Any] = {
        "machine": figures.machine(run),
        "device": measured.device,
        "processes": measured.processes,
        "started": measured.started,
        "seconds in all": measured.seconds.total,
        "training examples a second": measured.samples_per_second,
        "peak memory, MiB": measured.peak_memory_mb,
        "peak GPU memory, MiB": measured.peak_gpu_memory_mb,
        "parameters": run.record.sizes.get("parameters"),
        "commit": commit,
    }
    words = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in facts.items() if value}
    return [*words.items(), *sorted(versions.items())]
