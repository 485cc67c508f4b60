"""Show runs and sweeps: progress, the accuracy matrix at the end, a picture on demand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nlpcl.cli.app import table
from nlpcl.config.files import file_errors, replacing
from nlpcl.errors import brief, escaped, printable
from nlpcl.records.metrics import average, final_scores
from nlpcl.records.record import Record, short_task_name
from nlpcl.sweeps.cells import Cell, Execution, Outcome, last_line


def _percent(cell: float | None) -> str:
    """Return a score in [0, 1] as a percentage with one digit."""
    return "" if cell is None else f"{100 * cell:.1f}"


class ProgressReporter:
    """Shows task, epoch, loss and time left on stderr: a live bar on a terminal, otherwise a line per epoch."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, markup=False)
        self._bar: Progress | None = None
        self._tasks: list[str] = []
        self._epochs: list[int] = []
        self._begun = time.monotonic()

    def encoded(self, done: int, examples: int) -> None:
        """Show how far a frozen encoder is, which computes its token states once."""
        text = f"encoder: {done} of {examples} examples"
        self._show(text, done, examples)
        if done == examples:
            self.stop()
            _print(self.console, text)

    def start(self, tasks: list[str], epochs: list[int]) -> None:
        """Note what there is to train."""
        self._tasks, self._epochs, self._begun = tasks, epochs, time.monotonic()

    def epoch(self, task: int, epoch: int, loss: float, step: int, steps: int) -> None:
        """Show how far an epoch is; `step` of `steps` are done."""
        done, total = sum(self._epochs[:task]) + epoch + step / steps, sum(self._epochs)
        text = (
            f"task {task + 1}/{len(self._tasks)} {short_task_name(self._tasks[task])}, "
            f"epoch {epoch + 1}/{self._epochs[task]}, loss {loss:.3f}"
        )
        self._show(text, done, total)
        if step == steps and not self.console.is_terminal:
            left = (time.monotonic() - self._begun) / done * (total - done)
            _print(self.console, f"{text}, about {left:.0f} s left")

    def evaluated(self, row: int, accuracies: list[float | None]) -> None:
        """Print the accuracy after a test over the tasks."""
        cells = [cell for cell in accuracies if cell is not None]
        text = f"after task {row + 1}: accuracy {_percent(sum(cells) / len(cells))} % over {len(cells)} task(s)"
        _print(self.console, text)

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        _print(self.console, f"nlpcl: {sentence}")

    def stop(self) -> None:
        """Remove the bar, after the last task or when the run breaks off."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, text: str, done: float, total: float) -> None:
        """Show a bar, on a terminal."""
        if not self.console.is_terminal:
            return
        if self._bar is None:
            description = TextColumn("{task.description}", markup=False)
            columns = (description, BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task(escaped(text), total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, description=escaped(text))


def _print(console: Console, text: str) -> None:
    console.print(brief(printable(text)), highlight=False, soft_wrap=True)


def time_in_words(seconds: float) -> str:
    """Return seconds in words, in the two largest units that fit."""
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // part:.0f} {smaller}"
    return f"{seconds:.0f} s"


class SweepReporter(Live):
    """Shows how a sweep goes on stderr: on a terminal live, with the last line of each run, otherwise a line per run.

    :param runs: number of runs to do.
    :param execution: where they write.
    """

    def __init__(self, runs: int, execution: Execution) -> None:
        console = Console(stderr=True, markup=False)
        self.runs = runs
        self.execution = execution
        self.failed: list[Outcome] = []
        self.done = 0
        columns = (BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} runs"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console)
        self._bar.add_task("", total=runs)
        super().__init__(self._bar, console=console, transient=True, auto_refresh=console.is_terminal)

    def running(self, cells: Sequence[Cell]) -> None:
        """Show the runs at work."""
        if self.console.is_terminal:
            lines = [f"{cell.label}: {last_line(cell.log(self.execution))}" for cell in cells]
            texts = [
                Text(escaped(line), no_wrap=True, overflow="ellipsis") for line in lines[: self.console.height - 3]
            ]
            self.update(Group(self._bar, *texts))

    def ended(self, outcome: Outcome) -> None:
        """Print how a run ended."""
        self.done += 1
        self._bar.advance(self._bar.task_ids[0])
        if outcome.error is not None:
            self.failed.append(outcome)
        result = "done" if outcome.error is None else f"failed: {outcome.error}"
        _print(self.console, f"{self.done}/{self.runs} {outcome.cell.label}: {result}")

    def stopping(self, runs: int) -> None:
        """Say that the sweep was interrupted."""
        _print(self.console, f"nlpcl: {runs} run(s) save a checkpoint and stop; the same command goes on from there")


def print_record(console: Console, record: Record) -> None:
    """Print the derived metrics and the accuracy matrix; on a narrow screen a line per task in its place."""
    title = f"accuracy (%), {record.spec['strategy']} on {record.spec['benchmark']}"
    names = [f"{i} {short_task_name(task['name'])}" for i, task in enumerate(record.data["tasks"], start=1)]
    matrix, numbers = record.matrices.accuracy, [str(i + 1) for i in range(len(names))]
    rows = [[name, *map(_percent, row)] for name, row in zip(names, matrix, strict=True) if any(map(_percent, row))]
    shown = table(["after task", *numbers], rows, title, numbers)
    if Measurement.get(console, console.options.update(max_width=1000), shown).maximum > console.width:
        final = final_scores(matrix)
        rows = [[name, _percent(matrix[i][i]), _percent(final[i])] for i, name in enumerate(names)]
        shown = table(["task", "learnt", "in the end"], rows, title, ["learnt", "in the end"])
    console.print(shown)
    known = {name.replace("_", " "): _percent(x) for name, x in record.derived().items() if x is not None}
    console.print(", ".join(f"{name} {percent} %" for name, percent in known.items()), highlight=False)


def strategy_table(matrix: Mapping[str, Mapping[str, Sequence[str]]]) -> Table:
    """Return a table of strategies by backbones; a cell holds the scenarios in which the pair runs.

    :param matrix: by strategy and backbone the scenarios, of every strategy for the same backbones.
    """
    title = "strategies on backbones (T: til, D: dil, and cil where labels differ; C: cil alone)"
    made = Table(title=title, title_justify="left", box=None)
    made.add_column("strategy", no_wrap=True)
    for backbone in next(iter(matrix.values())):
        made.add_column(backbone.replace("_", "_\n"), no_wrap=True)
    for name, row in matrix.items():
        made.add_row(name, *(" ".join(scenario[0].upper() for scenario in cell) or "-" for cell in row.values()))
    return made


def draw(record: Record, path: Path) -> None:
    """Draw the accuracy matrix and the average accuracy over time, as a PNG."""
    from matplotlib.figure import Figure

    matrix = [[float("nan") if cell is None else 100 * cell for cell in row] for row in record.matrices.accuracy]
    names = [short_task_name(task["name"]) for task in record.data["tasks"]]
    figure = Figure(figsize=(5 + 0.6 * len(names), 4 + 0.15 * len(names)), layout="constrained")
    heat, curve = figure.subplots(1, 2)
    image = heat.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    figure.colorbar(image, ax=heat, label="accuracy (%)")
    heat.set(xlabel="tested on task", ylabel="after training task", title=record.spec["strategy"])
    heat.set_xticks(range(len(names)), names, rotation=90)
    heat.set_yticks(range(len(names)), names)
    rows = [[cell for cell in row if cell is not None] for row in record.matrices.accuracy]
    points: list[Any] = [(i + 1, 100 * sum(row) / len(row)) for i, row in enumerate(rows) if row]
    curve.plot([x for x, _ in points], [y for _, y in points], marker="o")
    curve.set(xlabel="tasks trained", ylabel="average accuracy on tested tasks (%)", ylim=(0, 100))
    final = average(record.matrices.accuracy)
    curve.set_title("" if final is None else f"final average {_percent(final)} %")
    with file_errors(f"could not write {path}"), replacing(path) as temporary:
        figure.savefig(temporary, format="png")
