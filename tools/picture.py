"""Draw the picture of README.md: accuracy on each task after each task, and the mean over the tasks learnt so far.

for s in ncl ctr; do nlpcl run --strategy $s --out runs/picture; done
python tools/picture.py runs/picture --out docs/picture.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nlpcl.records.metrics import average_over_time
from nlpcl.records.record import Record


def draw(records: list[Record], out: Path) -> None:
    """Draw a heat map for each record and one diagram with a curve for each."""
    tasks = [str(task["name"]) for task in records[0].data["tasks"]]
    figure = Figure(figsize=(3.2 * (len(records) + 1), 3), layout="constrained")
    *maps, curves = figure.subplots(1, len(records) + 1)
    for axes, record in zip(maps, records, strict=True):
        cells = [[float("nan") if cell is None else 100 * cell for cell in row] for row in record.matrices.accuracy]
        axes.imshow(cells, vmin=40, vmax=100, cmap="viridis")
        for i, row in enumerate(cells):
            for j, cell in enumerate(row[: i + 1]):
                axes.text(j, i, f"{cell:.0f}", ha="center", va="center", color="black" if cell > 75 else "white")
        axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right")
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set(title=f"{record.spec['strategy'].upper()}: accuracy, %", xlabel="tested on", ylabel="after training")
        means = [float("nan") if mean is None else 100 * mean for mean in average_over_time(record.matrices.accuracy)]
        curves.plot(range(1, len(means) + 1), means, marker="o", label=record.spec["strategy"].upper())
    curves.set(title="mean over tasks so far, %", xlabel="tasks trained", ylim=(40, 100))
    curves.legend(loc="lower left")
    FigureCanvasAgg(figure)
    figure.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw accuracy matrices and curves of runs of one stream.")
    parser.add_argument("folder", type=Path, help="folder with records")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.png, .svg, .pdf)")
    arguments = parser.parse_args()
    records = [Record.load(path) for path in sorted(arguments.folder.glob("*/record.json"))]
    draw(sorted(records, key=lambda record: record.spec["strategy"], reverse=True), arguments.out)


if __name__ == "__main__":
    main()
