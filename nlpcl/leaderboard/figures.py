"""A run's figures as Plotly takes them: dicts of `data` and `layout`, drawn in the reader's browser.

They are written as plain dicts, as checking each with `plotly.graph_objects` would take longer than all the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nlpcl.leaderboard.cells import shown
from nlpcl.leaderboard.files import Block, Run
from nlpcl.leaderboard.rows import RANKED, Row
from nlpcl.records.metrics import average_over_time, forgetting_by_task
from nlpcl.records.record import short_task_name

Figure = dict[str, Any]
MOST_LABELLED = 20  # tasks up to which each cell of a matrix shows its figure
MOST_NAMED = 8  # curves up to which a legend names each


def text(words: str) -> str:
    """Words of a record as Plotly shows them literally: it reads texts as a subset of HTML."""
    return escape(shown(words), quote=False)


def percent(score: float | None) -> float | None:
    """A fraction as a percentage with two digits."""
    return None if score is None else round(100 * score, 2)


def task_names(run: Run) -> list[str]:
    """Numbered, so that no two are alike."""
    return [f"{i} {text(short_task_name(task['name']))}" for i, task in enumerate(run.record.data["tasks"], start=1)]


def matrix(run: Run) -> Figure:
    """Heat map of accuracy on each task (across) after each task (down), in percent."""
    names, scores = task_names(run), run.record.matrices.accuracy
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[percent(cell) for cell in row] for row in scores],
        "zmin": 0,
        "zmax": 100,
        "colorscale": "Viridis",
        "hoverongaps": False,
        "hovertemplate": "%{x}<br>after %{y}<br>%{z:.1f} %<extra></extra>",
    }
    if len(names) <= MOST_LABELLED:
        trace["texttemplate"] = "%{z:.1f}"
    axes = {"xaxis": {"title": {"text": "tested on"}}, "yaxis": {"title": {"text": "after"}, "autorange": "reversed"}}
    return {"data": [trace], "layout": axes}


def over_time(runs: Mapping[Block, Run]) -> Figure | None:
    """Mean accuracy on the tasks learnt so far, after each task: a line for each run, and their mean.

    None where no run was tested after two tasks or more.
    """
    curves = {
        block: [percent(x) for x in average_over_time(run.record.matrices.accuracy)] for block, run in runs.items()
    }
    if not any(sum(value is not None for value in curve) > 1 for curve in curves.values()):
        return None
    x = list(range(1, max(len(curve) for curve in curves.values()) + 1))
    hover = {"hovertemplate": "%{y:.1f} % after task %{x}"}
    line: Figure = {"type": "scatter", "mode": "lines+markers", "x": x, **hover}
    data: list[Figure] = [
        {**line, "y": curve, "name": text(named(block)), "opacity": 0.45 if len(curves) > 1 else 1}
        for block, curve in curves.items()
    ]
    if len(curves) > 1:
        columns = zip(*curves.values(), strict=True)
        mean = [None if None in column else round(sum(column) / len(column), 2) for column in columns]
        data.append({**line, "y": mean, "name": "mean", "line": {"width": 4}})
    layout = {
        "xaxis": {"title": {"text": "tasks learnt"}, "dtick": max(1, len(x) // 10)},
        "yaxis": {"title": {"text": "%"}},
        "showlegend": 1 < len(data) <= MOST_NAMED,
    }
    return {"data": data, "layout": layout}


def forgotten(run: Run) -> Figure | None:
    """A bar of each task but the last: percentage points lost since it was known best; None where not measured."""
    lost = [percent(x) for x in forgetting_by_task(run.record.matrices.accuracy)]
    if not any(x is not None for x in lost):
        return None
    bars = {
        "type": "bar",
        "x": task_names(run)[:-1],
        "y": lost,
        "hovertemplate": "%{x}<br>%{y:.1f} points<extra></extra>",
    }
    return {"data": [bars], "layout": {"yaxis": {"title": {"text": "points forgotten"}}}}


def cost(rows: Sequence[Row]) -> Figure | None:
    """Seconds of training against accuracy, one point a row, a colour for each kind of machine."""
    machines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.seconds is not None and row.scores[RANKED] is not None:
            machines[machine(next(iter(row.runs.values())))].append(row)
    data = [_points(name, machines[name]) for name in sorted(machines)]
    axes = {
        "xaxis": {"type": "log", "tickformat": "~g", "title": {"text": "seconds of training"}},
        "yaxis": {"title": {"text": "average accuracy, %"}},
    }
    return {"data": data, "layout": axes} if data else None


def _points(name: str, rows: Sequence[Row]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": text(name),
        "x": [round(row.seconds.mean, 3) for row in rows if row.seconds],
        "y": [percent(score.mean) for row in rows if (score := row.scores[RANKED])],
        "text": [text(row.strategy) for row in rows],
        "ids": [row.id for row in rows],
        "textposition": "top center",
        "hovertemplate": "%{text}<br>%{y:.1f} %<br>%{x:,.4~r} s<extra></extra>",
    }


def machine(run: Run) -> str:
    """What a run computed on, in words."""
    host, threads = run.record.measured.host, run.record.versions.get("threads")
    cpu = host.get("cpu") or host.get("machine") or "unknown machine"
    if host.get("gpu"):
        return str(host["gpu"])
    cores = f"{host['cores']} cores" if host.get("cores") else ""
    return ", ".join(
        filter(None, (str(cpu), cores, f"{threads} thread{'' if threads == '1' else 's'}" if threads else ""))
    )


def named(block: Block) -> str:
    """Order and seed in words."""
    order, seed = block
    return f"order {order}, seed {seed}"
