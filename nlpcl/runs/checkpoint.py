"""Checkpoints: a run that was interrupted goes on where it stood, bit for bit.

A checkpoint is a folder of safetensors and JSON with the SHA-256 of each file, written under another name, synced and
renamed; the last two are kept. One taken after a task holds the whole state. One taken within a task holds that of the
task's start, too: to go on, the task is begun again from there, so that its own code builds everything anew, and then
what had changed since is put in its place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from nlpcl.errors import UsageError
from nlpcl.runs.state import Capture, NotSerializable, Restore, Streams
from nlpcl.training import distributed
from nlpcl.training.checkpointer import RemainingBatches
from nlpcl.training.finite import all_finite

FORMAT = 2
ORDER = "order"  # torch's random state at the start of the epoch
KEPT = 2
UNREADABLE = (errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of a file that may be whole."""
START, NOW, SUMS = "start", "now", "sums.json"


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, of GPUs that of the run's."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys, *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Take them back."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)


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

    def numbers(self) -> list[int]:
        """The checkpoints there, ascending."""
        return sorted(int(entry.name) for entry in self.path.glob("*") if entry.name.isdigit())

    def write(
        self, part: str, tree: Any, tensors: dict[str, Tensor], facts: dict[str, Any], older: Path | None
    ) -> Path:
        """A new checkpoint.

        :param part: `START`, the state between two tasks, or `NOW`, that within a task.
        :param facts: what else is to be known, as JSON.
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
                    _share(file, temporary / file.name)
            (temporary / "head.json").write_text(json.dumps({"format": FORMAT, "spec": self.spec_id, **facts}))
            sums = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
            (temporary / SUMS).write_text(json.dumps(sums, indent=1))
            for entry in (*temporary.iterdir(), temporary):
                _sync(entry)
            os.replace(temporary, final)
            _sync(self.path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in self.numbers()[:-KEPT]:
            shutil.rmtree(self.path / str(old), ignore_errors=True)
        return final

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest good checkpoint and its head; None if there is none.

        :raises UsageError: a newer version of nlpcl wrote it, or it cannot be read now.
        """
        self.faults = []
        for number in reversed(self.numbers()):
            path = self.path / str(number)
            head = self._head(path)
            if head is None:
                self.faults.append(f"checkpoint {number} is damaged")
                shutil.rmtree(path, ignore_errors=True)  # it would take the place of a good one
            elif head["format"] > FORMAT:
                raise UsageError(f"{path} was written by a newer version of nlpcl: update it, or start over: --fresh.")
            elif head["format"] < FORMAT:
                self.faults.append(f"checkpoint {number} was written by an older version of nlpcl")
            elif head["spec"] != self.spec_id:
                self.faults.append(f"checkpoint {number} is of another spec")
            else:
                return path, head
        return None

    def numbered(self, number: int) -> tuple[Path, dict[str, Any]]:
        """The checkpoint that the first of several processes has chosen, and its head.

        :raises UsageError: it is not there.
        """
        path = self.path / str(number)
        head = self._head(path)
        if head is None:
            raise UsageError(
                f"process {distributed.rank()} finds no checkpoint {number} in {self.path}: --out must be a folder "
                "that all machines of a run share."
            )
        return path, head

    def _head(self, path: Path) -> dict[str, Any] | None:
        """What a checkpoint says of itself; None if it is cut short or not as it was written.

        :raises UsageError: it may be whole, but cannot be read now.
        """
        try:
            sums = json.loads((path / SUMS).read_text())
            if any(_sha256(path / name) != digest for name, digest in sums.items()):
                return None
            head = json.loads((path / "head.json").read_text())
            part = START if head["position"] is None else NOW
            whole = {"head.json", f"{part}.json", f"{part}.safetensors"} <= set(sums)
            known = {"format", "spec", "rows", "facts"} <= set(head) and isinstance(head["format"], int)
            return head if whole and known else None
        except OSError as error:  # a file that is missing, if the disk can be read
            if error.errno in UNREADABLE:
                raise UsageError(f"{path} cannot be read ({error.strerror}): it is left as it is.") from error
            return None
        except (ValueError, AttributeError, TypeError, KeyError):  # cut short, no JSON, or of another shape
            return None

    def read(self, path: Path, part: str) -> tuple[Any, dict[str, Tensor]] | None:
        """A part of a checkpoint: tree and tensors; None if it has no such part."""
        if not (path / f"{part}.json").exists():
            return None
        return json.loads((path / f"{part}.json").read_text()), load_file(path / f"{part}.safetensors")

    def clear(self) -> None:
        """Remove all of them."""
        if distributed.is_rank_zero():
            shutil.rmtree(self.path, ignore_errors=True)


class CheckpointManager:
    """Saves a run's checkpoints while it trains, and takes it up again: the `Checkpointer` of a strategy.

    Of several processes the first one saves, and all take up what it chooses; when, they decide together.

    :param folder: where they are.
    :param strategy: as it was built, before any training.
    :param benchmark: the run's benchmark.
    :param minutes: within a task one is saved every so many minutes; 0: only between tasks.
    :param facts: gives what else the run wants to know again, as JSON: matrices, times.
    :param tell: shows a sentence to the user.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        strategy: Any,
        benchmark: Any,
        minutes: float,
        facts: Callable[[], dict[str, Any]],
        tell: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.strategy = strategy
        self.minutes = minutes
        self.tell = tell
        self.facts = facts
        self.stop = False
        """Set to end the run with a KeyboardInterrupt once it has saved a checkpoint."""
        self.joining = False
        self._streams = Streams(benchmark)
        frozen = [p for p in strategy.model.parameters() if not p.requires_grad]
        self._untouched = {id(p): (weakref.ref(p), p._version) for p in frozen}
        self.latest: Path | None = None
        """The last good checkpoint."""
        self._saved = time.monotonic()
        self._able = True
        self._rows = 0
        self._passes = self._epoch = self._step = 0
        self._order = torch.get_rng_state()
        self._now: tuple[dict[str, int], Any, dict[str, Tensor]] | None = None
        self.joins_within = hasattr(strategy, "checkpointer")
        if self.joins_within:
            strategy.checkpointer = self

    def resume(self) -> tuple[int, dict[str, Any]]:
        """Take up the newest good checkpoint; the number of tasks that are done and the facts, none if there is none.

        :raises NotSerializable: it does not fit.
        :raises UsageError: a newer version of nlpcl wrote it.
        """
        with distributed.raise_on_all_ranks():
            found = self.folder.newest() if distributed.is_rank_zero() else None
        (number,) = distributed.broadcast([int(found[0].name) if found else 0])
        with distributed.raise_on_all_ranks():
            if number and found is None:
                found = self.folder.numbered(number)
        for fault in self.folder.faults:
            self.tell(f"{fault}: stepped past")
        if found is None:
            return 0, {}
        self.latest, head = found
        self._rows = head["rows"]
        start = self.folder.read(self.latest, START)
        if start is not None:
            self._put(*start)
        position = head["position"]
        if position is not None:
            now = self.folder.read(self.latest, NOW)
            assert now is not None
            self._now = (position, *now)
        where = "" if position is None else f", epoch {position['epoch'] + 1}, step {position['step']}"
        self.tell(f"going on from a checkpoint: {self._rows} task(s) done{where}")
        return self._rows, head["facts"]

    def begin_task(self) -> None:
        """Before a task is trained."""
        self._passes = 0

    def between(self, rows: int) -> None:
        """After a task was trained and tested; `rows` are done.

        :raises KeyboardInterrupt: the run is to stop.
        """
        self._rows = rows
        self._save(START, None)
        if distributed.all_reduce_max(int(self.stop)):
            self._end()

    def enter(self, strategy: Any) -> int | None:
        """As in `Checkpointer`."""
        self._passes += 1
        if self._now is None:
            return 0
        position, *now = self._now
        if self._passes < position["pass"]:
            return None
        self._put(*now)
        self.joining = True
        return position["epoch"]

    def begin_epoch(self, strategy: Any, epoch: int) -> None:
        """As in `Checkpointer`."""
        self._epoch, self._step, self._order = epoch, 0, torch.get_rng_state()
        if self.joining:
            assert self._now is not None
            position, _, tensors = self._now
            self._step, self._order = position["step"], tensors[ORDER]
            strategy.dataloader = RemainingBatches(strategy.dataloader, self._step, self._order)
            self.joining, self._now = False, None

    def stepped(self, strategy: Any) -> None:
        """As in `Checkpointer`.

        :raises KeyboardInterrupt: the run is to stop.
        """
        self._step += 1
        due = self.minutes > 0 and time.monotonic() - self._saved >= 60 * self.minutes and distributed.is_rank_zero()
        asked = distributed.all_reduce_max(2 if self.stop else int(due))
        if asked:
            strategy.check_losses()
            self._save(NOW, {"pass": self._passes, "epoch": self._epoch, "step": self._step})
        if asked == 2:
            self._end()

    def _end(self) -> None:
        if self._able:
            self.tell("stopped: the same command goes on from here")
        distributed.barrier()  # not before the first process has saved
        raise KeyboardInterrupt

    def _roots(self) -> dict[str, Any]:
        return {"model": self.strategy.model, "strategy": self.strategy, "random": random_states(self.strategy.device)}

    def _save(self, part: str, position: dict[str, int] | None) -> None:
        self._saved = time.monotonic()
        if not distributed.is_rank_zero() or not self._able or not all_finite(self.strategy.model):
            return
        capture = Capture(part == NOW, self._untouched, self._streams)
        facts = {"rows": self._rows, "position": position, "facts": self.facts()}
        try:
            tree = capture.node(self._roots(), "run")
            if part == NOW:
                capture.tensors[ORDER] = self._order
            self.latest = self.folder.write(part, tree, capture.tensors, facts, self.latest)
        except NotSerializable as error:
            self._able = False
            self.tell(f"no checkpoints of this strategy: if the run is interrupted, it starts over ({error})")
        except OSError as error:
            self.tell(f"a checkpoint could not be written ({error.strerror}); the last good one is kept")

    def _put(self, tree: Any, tensors: dict[str, Tensor]) -> None:
        restored = Restore(tensors, self.strategy.device, self._streams).value(tree, self._roots(), "run")
        set_random_states(restored["random"], self.strategy.device)


@contextmanager
def interruptible(keeper: CheckpointManager | None) -> Iterator[None]:
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


def _share(file: Path, there: Path) -> None:
    try:
        os.link(file, there)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, there)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
