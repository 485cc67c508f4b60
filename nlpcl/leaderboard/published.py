"""Find the published figure that a row of ours is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlpcl.config.files import check_plain, fault
from nlpcl.errors import UsageError
from nlpcl.leaderboard.files import signed
from nlpcl.leaderboard.rows import Row

OURS = Path(__file__).with_name("published.csv")


class PublishedFigure(BaseModel):
    """A line of `published.csv`.

    :ivar model: the encoder; empty if there was none.
    :ivar train_size: training examples of each task; None means all.
    :ivar value: value of `metric`, in percent; negative for a rate of forgetting that was published as such.
    :ivar data: how the data differ from our benchmark's; empty if they do not.
    :ivar source: where the figure was published.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str
    scenario: str
    backbone: str
    strategy: str
    model: str
    tasks: int
    train_size: int | None
    metric: str
    value: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
    data: str
    source: str = Field(min_length=1)


Figures = dict[tuple[str, str, str, str, str], list[PublishedFigure]]


@dataclass(frozen=True)
class Beside:
    """A published figure beside a row of ours.

    :param value: published value, as a fraction.
    :param difference: ours minus the published value; None if ours is missing.
    :param unlike: known differences between the two protocols, in words.
    """

    value: float
    difference: float | None
    unlike: tuple[str, ...]
    source: str

    @property
    def value_as_text(self) -> str:
        """The published value in percent, with a dagger if it is of another protocol."""
        return f"{100 * self.value:.2f}{self._mark}".replace("-", "−")

    @property
    def difference_as_text(self) -> str:
        """The difference in percentage points, marked likewise; empty if there is none."""
        return "" if self.difference is None else f"{signed(self.difference)}{self._mark}"

    @property
    def _mark(self) -> str:
        return "†" if self.unlike else ""


def read_published(path: Path = OURS) -> Figures:
    """Read published figures, by benchmark, scenario, backbone, strategy and metric.

    :param path: a CSV file like the package's own.
    :raises UsageError: the file cannot be read, or a line of it is not a published figure.
    """
    import pandas as pd

    check_plain(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the published figures in {path} ({error}).") from error
    figures: Figures = {}
    for number, line in enumerate(frame.to_dict("records"), start=2):
        try:
            figure = PublishedFigure.model_validate({**line, "train_size": line.get("train_size") or None})
        except ValidationError as error:
            raise UsageError(f"{path}, line {number}: {fault(error)}.") from error
        key = (figure.benchmark, figure.scenario, figure.backbone, figure.strategy, figure.metric)
        figures.setdefault(key, []).append(figure)
    return figures


def beside(row: Row, published: Figures, metric: str) -> Beside | None:
    """Return the published figure of the same benchmark, scenario, backbone and strategy with the nearest protocol.

    None means that there is no such figure.
    """
    benchmark, scenario, backbone = (row.protocol[name] for name in ("benchmark", "scenario", "backbone"))
    fitting = published.get((benchmark, scenario, backbone, row.strategy, metric))
    if not fitting:
        return None
    best = min(fitting, key=lambda p: len(_unlike(row, p)))
    ours = row.scores[metric]
    difference = None if ours is None else ours.mean - best.value / 100
    return Beside(best.value / 100, difference, _unlike(row, best), best.source)


def _unlike(row: Row, published: PublishedFigure) -> tuple[str, ...]:
    size = published.train_size
    theirs = {"encoder": published.model, "tasks": str(published.tasks), "training examples a task": str(size or "all")}
    model = row.protocol["model"].rpartition("/")[2]
    ours = {
        "encoder": model,
        "tasks": row.protocol["number_of_tasks"],
        "training examples a task": row.protocol["train_size"] or "all",
    }
    differences = [
        f"{name} {theirs[name] or 'none'}, here {ours[name] or 'none'}" for name in theirs if theirs[name] != ours[name]
    ]
    return (*differences, *([published.data] if published.data else []))
