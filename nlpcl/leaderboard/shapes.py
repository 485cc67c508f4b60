"""The parts of a record that `Record` keeps as JSON of any shape, as a run writes them."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlpcl.config.files import fault
from nlpcl.errors import UsageError
from nlpcl.leaderboard.files import shortened
from nlpcl.ranges import Digest, Share
from nlpcl.records.record import Record

_Part = TypeVar("_Part", bound=BaseModel)
_AtLeastZero = Annotated[int, Field(ge=0)]
_STRICT = ConfigDict(extra="forbid", strict=True)


class TaskFacts(BaseModel):
    """A task as a record describes it: its name, labels and numbers of examples."""

    model_config = _STRICT

    name: str = Field(min_length=1, max_length=100)
    labels: list[str] = Field(min_length=1)
    train: int = Field(ge=1)
    valid: int = Field(ge=0)
    test: int = Field(ge=1)


class DataFacts(BaseModel):
    """What a record says of the data that were read."""

    model_config = _STRICT

    tasks: list[TaskFacts]
    files: dict[str, str] = {}
    encoder: dict[str, Any] | None = None


class EncoderFacts(BaseModel):
    """What a record says of an encoder, beside the SHA-256 of its weights by the names of their files."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    tokenizer: dict[str, Digest] = {}
    __pydantic_extra__: dict[str, Digest] = Field(init=False)


class VectorFacts(BaseModel):
    """What a record says of word vectors: those of a file, or trained ones."""

    model_config = _STRICT

    name: str
    words: int = Field(ge=1)
    dimensions: int = Field(ge=1)
    sha256: Digest | None = None
    trained_on: str | None = None
    method: str | None = None


class SizeFacts(BaseModel):
    """What a record says of the model: see `nlpcl.models.sizes.sizes_of`."""

    model_config = _STRICT

    parameters: _AtLeastZero
    parameters_frozen_at_end: _AtLeastZero
    kept_bytes: list[dict[str, _AtLeastZero]]
    best_epochs: list[Annotated[int, Field(ge=1)]] | None = None
    undecided_gates: list[Share] | None = None
    units_used: Share | None = None


class HostFacts(BaseModel):
    """What a record says of the machine."""

    model_config = _STRICT

    system: str | None = None
    machine: str | None = None
    cpu: str | None = None
    gpu: str | None = None
    cores: Annotated[int, Field(ge=1)] | None = None


class GitFacts(BaseModel):
    """What a record says of the source tree."""

    model_config = _STRICT

    commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
    dirty: bool


def check_data(record: Record) -> list[TaskFacts]:
    """Check what a record says of the data that were read, on which every comparison relies, and return its tasks.

    :return: tasks in the order they were learnt.
    :raises UsageError: tasks, files or encoder are not described as a run describes them, or the number of tasks is
        not that of the matrices' rows.
    """
    tasks = read_part(DataFacts, "data", record.data).tasks
    names = [task.name for task in tasks]
    if len(names) != len(record.matrices.accuracy) or len(set(names)) < len(names):
        raise UsageError(
            f"data.tasks must name each of the {len(record.matrices.accuracy)} tasks once, not {shortened(str(names))}."
        )
    return tasks


def read_part(kind: type[_Part], name: str, content: Any) -> _Part:
    """Return a part of a record as what it must be.

    :param name: of the part, for the message.
    :raises UsageError: it is not that.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{name}.{shortened(fault(error))}.") from error
