"""Make the figures of runs for Plotly: dicts of `data` and `layout`, which the reader's browser draws.

They are plain dicts, since checking each with `plotly.graph_objects` would take longer than all the rest.
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
MOST_LABELLED = 20  # with more tasks, the cells of a matrix show no figures
MOST_NAMED = 8  # with more curves, there is no legend


def text(words: str) -> str:
    """Return a record's text so that Plotly, which reads a subset of HTML, shows it literally."""
    return escape(shown(words), quote=False)


def rounded_percent(score: float | None) -> float | None:
    """Return a fraction as a percentage with two digits."""
    return None if score is None else round(100 * score, 2)


def task_names(run: Run) -> list[str]:
    """Return the tasks' names, numbered so that no two are alike."""
    return [f"{i} {text(short_task_name(task['name']))}" for i, task in enumerate(run.record.data["tasks"], start=1)]


def matrix(run: Run) -> Figure:
    """Return a heat map of accuracy on each task (across) after each task (down), in percent."""
    names, scores = task_names(run), run.record.matrices.accuracy
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[rounded_percent(cell) for cell in row] for row in scores],
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
    """Return curves of the mean accuracy on the tasks learnt so far: one for each run, and their mean.

    None means that no run was tested after two tasks or more.
    """
    curves = {
        block: [rounded_percent(x) for x in average_over_time(run.record.matrices.accuracy)]
        for block, run in runs.items()
    }
    if not any(sum(value is not None for value in curve) > 1 for curve in curves.values()):
        return None
    x = list(range(1, max(len(curve) for curve in curves.values()) + 1))
    hover = {"hovertemplate": "%{y:.1f} % after task %{x}"}
    line: Figure = {"type": "scatter", "mode": "lines+markers", "x": x, **hover}
    data: list[Figure] = [
        {**line, "y": curve, "name": text(block_name(block)), "opacity": 0.45 if len(curves) > 1 else 1}
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
    """Return a bar for each task but the last: points lost since its best accuracy. None means not measured."""
    lost = [rounded_percent(x) for x in forgetting_by_task(run.record.matrices.accuracy)]
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
    """Return a diagram of training seconds against accuracy: a point for each row, a colour for each machine."""
    machines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.seconds is not None and row.scores[RANKED] is not None:
            machines[machine(next(iter(row.runs.values())))].append(row)
    data = []
    for name, points in sorted(machines.items()):
        trace: dict[str, object] = {
            "type": "scatter",
            "mode": "markers+text",
            "name": text(name),
            "textposition": "top center",
        }
        trace["x"] = [round(row.seconds.mean, 3) for row in points if row.seconds]
        trace["y"] = [rounded_percent(score.mean) for row in points if (score := row.scores[RANKED])]
        trace["text"] = [text(row.strategy) for row in points]
        trace["ids"] = [row.id for row in points]
        data.append({**trace, "hovertemplate": "%{text}<br>%{y:.1f} %<br>%{x:,.4~r} s<extra></extra>"})
    axes = {
        "xaxis": {"type": "log", "tickformat": "~g", "title": {"text": "seconds of training"}},
        "yaxis": {"title": {"text": "average accuracy, %"}},
    }
    return {"data": data, "layout": axes} if data else None


def machine(run: Run) -> str:
    """Return the machine a run was made on, in words."""
    host, threads = run.record.measured.host, run.record.versions.get("threads")
    if host.get("gpu"):
        return str(host["gpu"])
    parts = [str(host.get("cpu") or host.get("machine") or "unknown machine")]
    parts += [f"{host['cores']} cores"] if host.get("cores") else []
    parts += [f"{threads} thread{'' if threads == '1' else 's'}"] if threads else []
    return ", ".join(parts)


def block_name(block: Block) -> str:
    """Return order and seed in words."""
    order, seed = block
    return f"order {order}, seed {seed}"
