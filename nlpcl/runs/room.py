"""Room for a run's record: it is taken before the training, so that a disk that fills up meanwhile loses no result."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from nlpcl.config.files import file_errors, sync
from nlpcl.errors import UsageError
from nlpcl.records.record import Record


class Room:
    """A file in the folder of a run that is as large as its record will be, and in the end becomes it.

    :param folder: of the run, which this process holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / ".room"

    def take(self, record: Record) -> None:
        """Take the room.

        :param record: what the run knows before the training.
        :raises UsageError: there is none.
        """
        tasks = len(record.matrices.accuracy)
        growth = 2**14 + tasks * (16 * tasks + 1024)  # six digits in each matrix; seconds and bytes of each task
        with file_errors(f"records cannot be written to {self.folder}", "choose another --out"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("wb") as file:
                file.write(os.urandom(len(record.content()) + growth))  # a file system may keep no room for zeros
                file.flush()
                os.fsync(file.fileno())

    def save(self, record: Record) -> None:
        """Save a record in the folder, as `record.json`, or as `failed.json` if it is one of a run that failed.

        :raises UsageError: it cannot be written there; the sentence says where the record of a run that is done is now.
        """
        path = self.folder / ("record.json" if record.status == "ok" else "failed.json")
        try:
            with self._file.open("rb+") as file:
                file.write(record.content())
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._file, path)
            sync(self.folder)
        except OSError:  # the folder is gone, or the file system puts what is written over elsewhere
            self.give_back()
            try:
                record.save(path)
            except UsageError as error:
                if record.status == "failed":
                    raise
                raise UsageError(f"{error} {_elsewhere(record)}") from error

    def give_back(self) -> None:
        """Remove the room, if it was not used."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)


def _elsewhere(record: Record) -> str:
    """Save a record in a new folder for temporary files, and return a sentence that says where."""
    try:
        file = Path(tempfile.mkdtemp(prefix=f"nlpcl-{record.id}-")) / "record.json"
        record.save(file)
    except (OSError, UsageError):
        return "The same command goes on from the last checkpoint once it can be written."
    return f"The record is {file}: move it there."
