"""Checkpoints on disk: a folder of safetensors and JSON with the SHA-256 of each file.

It is written under another name, synced and renamed, and the last two are kept. One that is damaged is removed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nlpcl.config.files import sha256, sync
from nlpcl.errors import UsageError
from nlpcl.records.record import Record
from nlpcl.runs.state import NotSerializable
from nlpcl.training import distributed

_FORMAT = 4
KEPT = 2
UNREADABLE = (errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of a file that may be whole."""
START, NOW, HEAD, SUMS = "start", "now", "head.json", "sums.json"
KINDS = ("json", "safetensors")
FILES = {HEAD, *(f"{part}.{kind}" for part in (START, NOW) for kind in KINDS)}
DAMAGED = "is damaged"
_DIGITS = 18
"""Most digits of a checkpoint's number."""
_Number = Annotated[int, Field(ge=0, le=10**15)]


class Position(BaseModel):
    """Where in a task a checkpoint was taken: after `step` steps of an epoch of its n-th pass."""

    model_config = ConfigDict(extra="forbid")

    passes: _Number
    epoch: _Number
    step: _Number


class Head(BaseModel):
    """The head of a checkpoint: of which run it is, and how far that had come.

    :ivar rows: number of tasks that are done.
    :ivar position: None means between two tasks.
    :ivar record: what the run has measured so far.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[4] = 4
    rows: _Number
    position: Position | None
    record: Record

    @model_validator(mode="after")
    def _of_as_many_tasks(self) -> Head:
        kept = TypeAdapter(list[dict[str, _Number]]).validate_python(self.record.sizes.get("kept_bytes"), strict=True)
        record = self.record
        if not len(kept) == len(record.measured.seconds.train) == self.rows <= len(record.matrices.accuracy):
            raise ValueError("not all is of the same number of tasks")
        return self


class CheckpointFolder:
    """The checkpoints of one run on disk.

    :param path: the folder that holds them.
    :param spec_id: of the run; checkpoints of another are stepped past.
    """

    def __init__(self, path: Path, spec_id: str) -> None:
        self.path = path
        self.spec_id = spec_id
        self.faults: list[str] = []
        """What `newest` stepped past, and why."""
        self._chosen: Path | None = None

    def numbers(self) -> list[int]:
        """Return the numbers of the checkpoints, ascending."""
        number = re.compile(f"[1-9][0-9]{{,{_DIGITS - 1}}}")
        names = [entry.name for entry in self.path.glob("*") if number.fullmatch(entry.name)]
        return sorted(map(int, names))

    def write(self, part: str, tree: Any, tensors: dict[str, Tensor], head: Head, older: Path | None) -> Path:
        """Save a new checkpoint and return its folder.

        :param part: `START`, the state between two tasks, or `NOW`, that within a task.
        :param older: the checkpoint that holds the state of the task's start, if there is one.
        :raises OSError: it cannot be written; the older ones are left as they are.
        """
        number = max(self.numbers(), default=0) + 1
        temporary, final = self.path / f"{number}.part", self.path / str(number)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            (temporary / f"{part}.safetensors").write_bytes(save(tensors))
            (temporary / f"{part}.json").write_text(json.dumps(tree))
            if part == NOW and older is not None:
                for file in older.glob(f"{START}.*"):
                    try:
                        os.link(file, temporary / file.name)
                    except OSError:  # a file system without hard links
                        shutil.copyfile(file, temporary / file.name)
            (temporary / HEAD).write_text(head.model_dump_json())
            sums = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
            (temporary / SUMS).write_text(json.dumps(sums, indent=1))
            for entry in (*temporary.iterdir(), temporary):
                sync(entry)
            os.replace(temporary, final)
            sync(self.path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in self.numbers()[:-KEPT]:
            shutil.rmtree(self.path / str(old), ignore_errors=True)
        return final

    def newest(self) -> tuple[Path, Head] | None:
        """Return the newest good checkpoint and its head, or None; those that are damaged are removed.

        :raises UsageError: a newer version of nlpcl wrote it, or it cannot be read now.
        """
        self.faults = []
        for abandoned in self.path.glob("*.part"):  # of a process that was killed: the run is this one's now
            shutil.rmtree(abandoned, ignore_errors=True)
        for number in reversed(self.numbers()):
            path = self.path / str(number)
            head = self._head(path)
            if isinstance(head, Head):
                self._chosen = path
                return path, head
            self.faults.append(f"checkpoint {number} {head}")
            if head == DAMAGED:
                shutil.rmtree(path, ignore_errors=True)  # it would take the place of a good one
        return None

    def numbered(self, number: int) -> tuple[Path, Head]:
        """Return the checkpoint that the first of several processes has chosen, and its head.

        :raises UsageError: it is not there.
        """
        self._chosen = self.path / str(number)
        if not isinstance(head := self._head(self._chosen), Head):
            raise UsageError(
                f"process {distributed.rank()} finds no checkpoint {number} in {self.path}: --out must be a folder "
                "that all machines of a run share."
            )
        return self._chosen, head

    def _head(self, path: Path) -> Head | str:
        """Return a checkpoint's head, or what is wrong with it.

        :raises UsageError: a newer version of nlpcl wrote it, or it may be whole, but cannot be read now.
        """
        try:
            if not all(file.is_file() for file in path.iterdir()):  # a named pipe would make this process wait
                return DAMAGED
            sums = json.loads((path / SUMS).read_text())
            if not set(sums) <= FILES or any(sha256(path / name) != digest for name, digest in sums.items()):
                return DAMAGED
            content = json.loads((path / HEAD).read_text())
            version = content["format"]
            head = Head.model_validate(content, strict=True) if version == _FORMAT else None
        except OSError as error:  # a file that is missing, if the disk can be read
            if error.errno in UNREADABLE:
                raise UsageError(f"{path} cannot be read ({error.strerror}): it is left as it is.") from error
            return DAMAGED
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError):  # cut short, or of another shape
            return DAMAGED
        if head is None:
            if isinstance(version, int) and version > _FORMAT:
                raise UsageError(f"{path} was written by a newer version of nlpcl: update it, or start over: --fresh.")
            return "was written by an older version of nlpcl" if isinstance(version, int) else DAMAGED
        parts = [part for part, there in ((START, head.rows), (NOW, head.position)) if there]
        if not {HEAD, *(f"{part}.{kind}" for part in parts for kind in KINDS)} <= set(sums):
            return DAMAGED
        return head if head.record.id == self.spec_id else "is of another spec"

    def read(self, path: Path, part: str) -> tuple[Any, dict[str, Tensor]]:
        """Return tree and tensors of a part of a checkpoint.

        :raises NotSerializable: they are of another shape.
        """
        try:
            return json.loads((path / f"{part}.json").read_text()), load_file(path / f"{part}.safetensors")
        except (ValueError, RecursionError, SafetensorError) as error:
            raise NotSerializable(f"{part}: {error}") from error

    def step_past(self) -> int:
        """Remove the checkpoint that `newest` or `numbered` gave, which does not fit; return its number."""
        assert self._chosen is not None
        if distributed.is_rank_zero():
            shutil.rmtree(self._chosen)
        return int(self._chosen.name)

    def clear(self) -> None:
        """Remove all of them."""
        if distributed.is_rank_zero():
            shutil.rmtree(self.path, ignore_errors=True)
