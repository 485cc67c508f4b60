"""Checkpoints: a run that was interrupted goes on where it stood, bit for bit.

A checkpoint is a folder of safetensors and JSON with the SHA-256 of each file, written under another name, synced and
renamed; the last two are kept. One taken after a task holds the whole state. One taken within a task holds that of the
task's start, too: to go on, the task is begun again from there, so that its own code builds everything anew, and then
what had changed since is put in its place.

A checkpoint that is damaged, or does not fit the run, is removed and the one before is tried.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from avalanche.benchmarks import CLScenario
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor

from nlpcl.errors import is_out_of_memory
from nlpcl.runs.checkpoint_folder import NOW, START, CheckpointFolder, Head, Position
from nlpcl.runs.fit import Observer
from nlpcl.runs.identity import check_same
from nlpcl.runs.progress import RunProgress
from nlpcl.runs.restore import UNEXPECTED, Restore, check_held
from nlpcl.runs.results import UNFINISHED, Results
from nlpcl.runs.state import Capture, NotSerializable, Streams, Untouched
from nlpcl.training import distributed
from nlpcl.training.batches import RemainingBatches
from nlpcl.training.finite import all_finite
from nlpcl.training.internals import version_of
from nlpcl.training.strategy import ContinualStrategy

ORDER = "order"  # torch's random state at the start of the epoch


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, of GPUs that of the run's."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Take them back."""
    random.setstate(states["python"])
    _, keys, position, *_ = states["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read beyond its end
        raise ValueError("the position in NumPy's random state is out of range")
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)


class CheckpointManager(Observer):
    """Saves a run's checkpoints while it trains, and takes it up again: the `Checkpointer` of a strategy.

    Of several processes the first one saves, and all take up what it chooses; when, they decide together.

    :param folder: where they are; None means that nothing is saved.
    :param strategy: as it was built, before any training.
    :param benchmark: the run's benchmark.
    :param minutes: within a task one is saved every so many minutes; 0: only between tasks.
    :param results: what the run measures.
    :param progress: shows sentences and scores to the user.
    """

    def __init__(
        self,
        folder: CheckpointFolder | None,
        strategy: SupervisedTemplate[Any, Any, Any],
        benchmark: CLScenario[Any],
        minutes: float,
        results: Results,
        progress: RunProgress,
    ) -> None:
        self.folder = folder
        self.strategy = strategy
        self.minutes = minutes
        self.progress = progress
        self.results = results
        self.stop = False
        """Set to end the run with a KeyboardInterrupt once it has saved a checkpoint."""
        self.joining = False
        self._streams = Streams(benchmark)
        self._untouched: Untouched = {p: version_of(p) for p in strategy.model.parameters() if not p.requires_grad}
        self.latest: Path | None = None
        """The last good checkpoint."""
        self._saved = time.monotonic()
        self._rows = 0
        self._passes = self._epoch = self._step = 0
        self._order = torch.get_rng_state()
        self._now: tuple[Position, Any, dict[str, Tensor]] | None = None
        self._start = 0
        """Number of tasks that were done when the state between two tasks was last saved."""
        self.joins_within = folder is not None and isinstance(strategy, ContinualStrategy)
        if self.joins_within:
            cast(ContinualStrategy, strategy).checkpointer = self

    def resume(self) -> int:
        """Take up the newest good checkpoint, if there is one; return the number of tasks that are done.

        :raises NotSerializable: it does not fit.
        :raises UsageError: a newer version of nlpcl wrote it, or it was made from other files.
        """
        if self.folder is None:
            return 0
        with distributed.raise_on_all_ranks():
            found = self.folder.newest() if distributed.is_rank_zero() else None
        (number,) = distributed.broadcast([int(found[0].name) if found else 0])
        with distributed.raise_on_all_ranks():
            if number and found is None:
                found = self.folder.numbered(number)
        for fault in self.folder.faults:
            self.progress.say(f"{fault}: stepped past")
        if found is None:
            return 0
        self.latest, head = found
        if head.rows:
            self._put(*self.folder.read(self.latest, START))
        if head.position is not None:
            self._now = (head.position, *self.folder.read(self.latest, NOW))
        self._rows = self._start = head.rows
        where = "" if head.position is None else f", epoch {head.position.epoch + 1}, step {head.position.step}"
        self.progress.say(f"going on from a checkpoint: {self._rows} task(s) done{where}")
        check_same(head.record.data, self.results.data, f"checkpoint {self.latest}")
        if changed := self.results.load(head.record):
            self.progress.say(f"begun with {'; '.join(changed)}: the record may differ from one made in one go")
        return head.rows

    def end_task(self, rows: int) -> None:
        """Note what the task has taken.

        :raises NotSerializable: the place at which to join it has not come.
        """
        if self._now is not None:
            raise NotSerializable(f"the task has {self._passes} passes")
        self._passes = 0
        self.results.on_task_end(rows)

    def tested(self, row: int) -> None:
        self.results.on_evaluation_end()
        if row >= 0:
            self.progress.evaluated(row, self.results.matrix.accuracy[row])

    def between(self, rows: int) -> None:
        """Save a checkpoint.

        :raises KeyboardInterrupt: the run is to stop.
        """
        self._rows = rows
        self._save(START, None)
        if distributed.all_reduce_max(int(self.stop)):
            self._end()

    def enter(self, strategy: ContinualStrategy) -> int | None:
        """Return the epoch with which to begin a pass over an experience; None if the pass is over.

        :raises NotSerializable: the checkpoint does not fit.
        """
        self._passes += 1
        if self._now is None:
            return 0
        position, *now = self._now
        if self._passes < position.passes:
            return None
        if position.epoch >= strategy.train_epochs:
            raise NotSerializable(f"the task has {strategy.train_epochs} epochs")
        self._put(*now)
        self.joining = True
        return position.epoch

    def begin_epoch(self, strategy: ContinualStrategy, epoch: int) -> None:
        """Note that an epoch begins; give a joined one the batches that were left.

        :raises NotSerializable: the checkpoint does not fit.
        """
        self._epoch, self._step, self._order = epoch, 0, torch.get_rng_state()
        if self.joining:
            assert self._now is not None
            position, _, tensors = self._now
            try:
                torch.Generator().set_state(tensors[ORDER])
            except UNEXPECTED as error:
                raise NotSerializable(f"{ORDER}: {error}") from error
            if position.step > len(strategy.dataloader):
                raise NotSerializable(f"an epoch of the task has {len(strategy.dataloader)} steps")
            self._step, self._order = position.step, tensors[ORDER]
            strategy.dataloader = RemainingBatches(strategy.dataloader, self._step, self._order)
            self.joining, self._now = False, None

    def stepped(self, strategy: ContinualStrategy) -> None:
        """Save a checkpoint if one is due, after a complete step.

        :raises KeyboardInterrupt: the run is to stop.
        """
        self._step += 1
        due = self.minutes > 0 and time.monotonic() - self._saved >= 60 * self.minutes and distributed.is_rank_zero()
        asked = distributed.all_reduce_max(2 if self.stop else int(due))
        if asked:
            strategy.check_losses()
            self._save(NOW, Position(passes=self._passes, epoch=self._epoch, step=self._step))
        if asked == 2:
            self._end()

    def _end(self) -> None:
        if self.folder is not None:
            self.progress.say("stopped: the same command goes on from here")
        distributed.barrier()  # not before the first process has saved
        raise KeyboardInterrupt

    def _roots(self) -> dict[str, Any]:
        return {"model": self.strategy.model, "strategy": self.strategy, "random": random_states(self.strategy.device)}

    def _save(self, part: str, position: Position | None) -> None:
        self._saved = time.monotonic()
        if self.folder is None or not distributed.is_rank_zero() or not all_finite(self.strategy.model):
            return
        if part == NOW and self._start != self._rows:  # the state of the task's start could not be written
            return
        capture = Capture(part == NOW, self._untouched, self._streams)
        head = Head(rows=self._rows, position=position, record=self.results.record(UNFINISHED))
        try:
            tree = capture.node(self._roots(), "run")
            if part == NOW:
                capture.tensors[ORDER] = self._order
            self.latest = self.folder.write(part, tree, capture.tensors, head, self.latest)
            self._start = self._rows
        except NotSerializable as error:
            self.folder = None
            self.progress.say(f"no checkpoints of this strategy: if the run is interrupted, it starts over ({error})")
        except OSError as error:
            self.progress.say(f"a checkpoint could not be written ({error.strerror}); the last good one is kept")

    def _put(self, tree: Any, tensors: dict[str, Tensor]) -> None:
        try:
            restore = Restore(tensors, self.strategy.device, self._untouched, self._streams)
            restored = restore.value(tree, self._roots(), "run")
            check_held("run", set(restored), set(self._roots()))
            set_random_states(restored["random"], self.strategy.device)
        except UNEXPECTED as error:
            if is_out_of_memory(error):  # the checkpoint is good
                raise
            raise NotSerializable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


@contextmanager
def interruptible(keeper: CheckpointManager | None = None) -> Iterator[None]:
    """SIGINT and SIGTERM let the step in hand end, save a checkpoint and end the run; a second ends it at once.

    A strategy that cannot be joined within a task is stopped at once, too. Several processes may get a signal twice,
    from the terminal and from torchrun, so there a second one changes nothing.
    """

    def handle(number: int, frame: Any) -> None:
        again = keeper is not None and keeper.stop and distributed.world_size() == 1
        if keeper is None or again or not keeper.joins_within:
            raise KeyboardInterrupt
        keeper.stop = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
