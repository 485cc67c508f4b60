"""The record of a run: raw facts, one JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from nlpcl.config.files import MOST_BYTES, file_errors, read_model, write_atomically
from nlpcl.config.orders import MOST_TASKS
from nlpcl.config.spec import CompleteSpec, spec_id
from nlpcl.records.metrics import derive

if TYPE_CHECKING:
    import pandas as pd

TASK_NAME_WIDTH = 22
PACKAGES = (
    *("nlpcl", "torch", "torchvision", "avalanche-lib", "transformers", "tokenizers", "torchmetrics"),
    *("numpy", "pillow"),
)
"""The packages that can change a result, whose versions a record holds."""
_AtLeastZero = Annotated[float, Field(ge=0)]
Span = Annotated[float, Field(ge=0, le=1e9)]  # seconds: their sum is finite, too


def _rounded(score: float) -> float:
    return round(score, 6)


def _square(matrix: list[list[float | None]]) -> list[list[float | None]]:
    if any(len(row) != len(matrix) for row in matrix):
        raise ValueError("a matrix must be square")
    return matrix


_Scores = list[Annotated[float, Field(ge=0, le=1), AfterValidator(_rounded)] | None]
_Matrix = Annotated[list[_Scores], Field(min_length=1, max_length=MOST_TASKS), AfterValidator(_square)]


class Matrices(BaseModel):
    """Scores in [0, 1] on each task (column) after training each task (row); null where not measured.

    They are kept with six digits, in memory as on disk.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    accuracy: _Matrix
    macro_f1: _Matrix
    initial: _Scores | None = None

    @model_validator(mode="after")
    def _same_size(self) -> Matrices:
        initial = self.accuracy if self.initial is None else self.initial
        if not len(self.accuracy) == len(self.macro_f1) == len(initial):
            raise ValueError("accuracy, macro_f1 and initial must be of the same tasks")
        return self


class Seconds(BaseModel):
    """Time a run took: all of it, what came before the first task, training of each task, each evaluation."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    total: Span | None = None
    setup: Span | None = None
    train: Annotated[list[Span], Field(max_length=MOST_TASKS)] = []
    evaluate: Annotated[list[Span], Field(max_length=MOST_TASKS + 1)] = []


class Measured(BaseModel):
    """What another repetition of the same run need not give again.

    :ivar started: of the (last) start, in UTC, ISO 8601.
    :ivar samples_per_second: training examples, each counted once an epoch, per second of training.
    :ivar peak_memory_mb: largest resident memory of the process in MiB; `peak_gpu_memory_mb` on the GPU.
    :ivar processes: how many computed together.
    :ivar resumed: how often the run went on from a checkpoint.
    :ivar host: processor, cores and GPU; no name of a machine or person.
    :ivar git: commit and dirty flag of the source tree, if the package ran from one.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    started: str | None = None
    seconds: Seconds = Seconds()
    samples_per_second: _AtLeastZero | None = None
    peak_memory_mb: _AtLeastZero | None = None
    peak_gpu_memory_mb: _AtLeastZero | None = None
    device: str | None = None
    processes: Annotated[int, Field(ge=1)] = 1
    resumed: Annotated[int, Field(ge=0)] = 0
    compiled: bool = False
    host: dict[str, str | int | None] = {}
    git: dict[str, str | bool] | None = None


class Record(BaseModel):
    """Raw facts of one run.

    Everything but `measured` is bitwise repeatable on one machine, version set and number of threads and
    processes. Averages are derived when read, never stored. docs/record.schema.json is its JSON Schema.

    :ivar status: `ok`, or `failed` with the reason in `error`; only `ok` counts as done.
    :ivar spec: the complete spec, as it was hashed into the record's id.
    :ivar data: hashes of the files, sizes of the tasks, the encoder's weights, tokenizer and commit.
    :ivar sizes: numbers of parameters, shares of units, and after each task the bytes to keep, by kind.
    :ivar versions: of Python and of the packages that can change a result.
    :ivar measured: seconds, rates, memory, host, git.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    record_version: Literal[1] = 1
    status: Literal["ok", "failed"]
    error: Annotated[str, Field(max_length=2000)] | None = None
    spec: dict[str, Any]
    data: dict[str, Any]
    sizes: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, str]
    matrices: Matrices
    measured: Measured

    @field_validator("spec", "data", "sizes")
    @classmethod
    def _json(cls, content: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(content, allow_nan=False, default=str)
        except ValueError as error:
            raise ValueError("a number in it is not finite, or too long") from error
        return content

    @model_validator(mode="after")
    def _failed_with_a_reason(self) -> Record:
        if (self.status == "failed") != bool(self.error):
            raise ValueError("a failed run has an error, and only a failed one")
        return self

    @property
    def id(self) -> str:
        """Hash of the spec as stored."""
        return spec_id(self.spec)

    def run_spec(self) -> CompleteSpec:
        """Return the spec that repeats this run.

        :raises UsageError: it is not complete, or of a newer version.
        """
        return CompleteSpec.parse(self.spec)

    def derived(self) -> dict[str, float | None]:
        """Averages, forgetting and transfer, from the matrices."""
        m = self.matrices
        return derive(m.accuracy, m.macro_f1, m.initial)

    def content(self) -> bytes:
        """What a record's file holds; of one record always the same."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    def save(self, path: str | Path) -> None:
        """Write to a temporary name in the same folder, then rename; on failure nothing is left.

        :raises UsageError: the file cannot be written.
        """
        write_atomically(Path(path), self.content())

    @classmethod
    def load(cls, path: str | Path, most_bytes: int = MOST_BYTES) -> Record:
        """Read and check a record.

        :raises UsageError: there is no such file, or it is not a record, or it is larger than `most_bytes`.
        """
        return read_model(cls, Path(path), "record", most_bytes)


def short_task_name(name: str) -> str:
    """Return a task's name without its source, cut to fit a column."""
    name = name.rpartition("_")[2] or name
    return name if len(name) <= TASK_NAME_WIDTH else name[: TASK_NAME_WIDTH - 1] + "…"


def check_out(out: Path) -> None:
    """Refuse before hours of training what would fail after them.

    :raises UsageError: no record can be written to `out`.
    """
    with file_errors(f"records cannot be written to {out}", "choose another --out"):
        if out.is_symlink():
            out.stat()  # fails for a link to nothing, or to itself
        place = next(parent for parent in (out, *Path(os.path.realpath(out)).parents) if parent.exists())
        tempfile.TemporaryFile(dir=place).close()


def collect(folder: str | Path) -> pd.DataFrame:
    """All records below `folder`, one row each: id, plain fields of the spec, derived metrics, path.

    :raises UsageError: a `record.json` there is not a record.
    """
    import pandas as pd

    rows = []
    for path in sorted(Path(folder).rglob("record.json")):
        record = Record.load(path)
        plain = {name: value for name, value in record.spec.items() if not isinstance(value, (dict, list))}
        rows.append({"id": record.id, **plain, **record.derived(), "path": str(path)})
    return pd.DataFrame(rows)
