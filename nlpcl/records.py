"""The record of a run: raw facts, one JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from nlpcl.errors import UsageError
from nlpcl.metrics import derive
from nlpcl.spec import RunSpec, spec_id

DIGITS = 6


class Matrices(BaseModel):
    """Scores in [0, 1] on each task (column) after training each task (row); null where not measured."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    accuracy: list[list[float | None]]
    macro_f1: list[list[float | None]]
    initial: list[float | None] | None = None

    @field_validator("accuracy", "macro_f1")
    @classmethod
    def _square(cls, matrix: list[list[float | None]]) -> list[list[float | None]]:
        if not matrix or any(len(row) != len(matrix) for row in matrix):
            raise ValueError("a matrix must be square")
        if any(cell is not None and not 0 <= cell <= 1 for row in matrix for cell in row):
            raise ValueError("a score must be in [0, 1]")
        return matrix


class Record(BaseModel):
    """Raw facts of one run.

    Everything but `measured` is bitwise repeatable on one machine, version set and thread count. Averages
    are derived when read, never stored.

    :param spec: the complete spec, as it was hashed into the record's id.
    :param data: hashes of the files, sizes of the tasks, the encoder's weights.
    :param sizes: numbers of parameters, shares of units.
    :param measured: seconds, memory, host, git.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    record_version: Literal[1] = 1
    status: Literal["ok"]
    spec: dict[str, Any]
    data: dict[str, Any]
    sizes: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, str]
    matrices: Matrices
    measured: dict[str, Any]

    @property
    def id(self) -> str:
        """Hash of the spec as stored."""
        return spec_id(self.spec)

    def run_spec(self) -> RunSpec:
        """The spec that repeats this run."""
        return RunSpec.parse(self.spec)

    def derived(self) -> dict[str, float | None]:
        """Averages, forgetting and transfer, from the matrices."""
        m = self.matrices
        return derive(m.accuracy, m.macro_f1, m.initial)

    def save(self, path: str | Path) -> None:
        """Write to a temporary name in the same folder, then rename; on failure nothing is left.

        :raises UsageError: the file cannot be written.
        """
        path = Path(path)
        content = self.model_dump(mode="json")
        content["matrices"] = _rounded(content["matrices"])
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise UsageError(f"could not write {path} ({error.strerror or error}); choose another --out.") from error

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read and check a record.

        :raises UsageError: there is no such file, or it is not a record.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror}).") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UsageError(f"{path} is not a record: {where}: {first['msg']}.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either what it held before or all of it."""
    created = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        for parent in created:
            parent.rmdir()
        raise


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
