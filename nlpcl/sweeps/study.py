"""A study of Optuna in a file, which several processes may continue at once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlpcl.errors import UsageError
from nlpcl.runs.lock import Lock, acquire, is_locked, release

if TYPE_CHECKING:
    from nlpcl.sweeps.tune import Axis

STUDY_SECONDS = 60.0
"""So long a process waits for another one that writes to the study."""
POLL = 0.5
"""Seconds between two looks at the trials that other processes have in hand."""
_UNUSABLE = "cannot be read or written as studies of Optuna: choose another --study."


@dataclass(frozen=True)
class Drawn:
    """A trial that this process has in hand: others see by its lock that it is not dead."""

    number: int
    texts: tuple[str, ...]
    trial: Any
    lock: Lock


class Study:
    """A study in an SQLite file, which several processes may continue at once.

    :param name: of the study in the file.
    :param axes: what is searched.
    :param usual: values that are tried first.
    :param seed: of the sampler.
    :raises UsageError: Optuna is not installed, or the file holds no studies.
    """

    def __init__(self, file: Path, name: str, axes: Sequence[Axis], usual: dict[str, Any], seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UsageError('nlpcl tune needs Optuna: pip install "nlpcl[tune]".') from error
        if not file.parent.is_dir() or (file.exists() and not file.is_file()):
            raise UsageError(f"{file} {_UNUSABLE}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.file = file
        self.axes = axes
        self.seed = seed
        self._digest = name.rpartition("-")[2]
        self._sampler, self._states = optuna.samplers.TPESampler, optuna.trial.TrialState
        # By a function and not by its address, in which some characters of a path mean something else.
        connect = partial(sqlite3.connect, file.absolute(), timeout=STUDY_SECONDS, check_same_thread=False)
        with self._alone():
            storage = optuna.storages.RDBStorage("sqlite:///study", engine_kwargs={"creator": connect})
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
            over = self._states
            known = [*self._trials(over.WAITING, over.COMPLETE, over.FAIL), *self._in_hand()]
            if usual and all(trial.system_attrs.get("fixed_params") != usual for trial in known):
                self._study.enqueue_trial(usual)

    def draw(self, trials: int) -> Drawn | None:
        """Return the next trial, or None if the study has enough; wait for those that other processes have in hand.

        :raises UsageError: the file cannot be read or written.
        """
        while True:
            with self._alone():
                over = len(self._trials(self._states.COMPLETE, self._states.FAIL))
                number = over + len(self._in_hand()) + 1
                if over >= trials:
                    return None
                if number <= trials:
                    # A seed for each trial: a study that was interrupted must not draw the same numbers again.
                    self._study.sampler = self._sampler(seed=self.seed + len(self._trials()))
                    trial = self._study.ask()
                    texts = tuple(axis.draw(trial) for axis in self.axes)
                    trial.set_user_attr("texts", texts)
                    return Drawn(number, texts, trial, acquire(self._lock_of(trial.number), 0))
            time.sleep(POLL)

    def tell(self, drawn: Drawn, accuracy: float | None) -> None:
        """Store how a trial ended; None means that it failed.

        :raises UsageError: the file cannot be written.
        """
        with self._alone():  # or one that counts meanwhile would see it neither as over nor as in hand
            self._study.tell(drawn.trial, accuracy, state=self._states.FAIL if accuracy is None else None)
            release(drawn.lock)

    def complete(self) -> list[Any]:
        """Return the trials that have an accuracy.

        :raises UsageError: the file cannot be read.
        """
        with self._errors():
            return self._trials(self._states.COMPLETE)

    def _trials(self, *states: Any) -> list[Any]:
        return list(self._study.get_trials(states=states or None))

    def _in_hand(self) -> list[Any]:
        """Return the trials that living processes have in hand."""
        return [trial for trial in self._trials(self._states.RUNNING) if is_locked(self._lock_of(trial.number))]

    def _lock_of(self, number: int) -> Path:
        return self.file.with_name(f"{self.file.name}.{self._digest}.{number}.lock")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from the file: two at once would make its tables twice, or draw the same trial."""
        place = self.file.with_name(f"{self.file.name}.lock")
        lock = acquire(place, STUDY_SECONDS, "another process is at this study", "name another --study")
        try:
            with self._errors():
                yield
        finally:
            release(lock)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what is wrong with the file as a sentence.

        :raises UsageError: it is locked, no database, or a database of another kind.
        """
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import DatabaseError

        try:
            yield
        except (DatabaseError, StorageInternalError, RuntimeError) as error:  # the last: of another version of Optuna
            if "database is locked" in f"{error} {error.__cause__}":
                raise UsageError(
                    f"{self.file} was locked by another process for {STUDY_SECONDS:g} s, so a trial in hand is not "
                    "stored: start again when that process has ended, and the search goes on."
                ) from error
            raise UsageError(f"{self.file} {_UNUSABLE}") from error
