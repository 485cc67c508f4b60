"""CORe50: fifty household objects filmed in eleven sessions (Lomonaco and Maltoni, https://arxiv.org/abs/1705.03550).

Sessions 3, 7 and 10 are for test, as its makers say. Task-incremental, new objects come (the makers' NC): ten, then
five a task. Domain-incremental, new sessions come (NI): all fifty objects, one training session a task, every task
tested on the same three sessions, so that the columns of a row of the matrix are alike. Folders are read as they are
unpacked, `core50_32x32/s1/o1/*.png` and so on; the makers' pickled lists are not needed, so nothing is unpickled.
Order n > 0 shuffles objects or sessions with our own generator; these are not the makers' ten runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._images import (
    COLOUR,
    ImageFiles,
    Images,
    ImageTask,
    image_files,
    image_stream,
    image_task,
)
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks.images._dealing import N_ORDERS, class_order, group_name
from nlpcl.config.orders import Order, Published
from nlpcl.errors import UsageError
from nlpcl.options import Options

_KINDS = (
    *("plug adapter", "mobile phone", "scissors", "light bulb", "can"),
    *("glasses", "ball", "marker", "cup", "remote control"),
)
_LABELS = tuple(f"{kind} {i}" for kind in _KINDS for i in range(1, 6))
_TEST_SESSIONS = (3, 7, 10)
_TRAIN_SESSIONS = tuple(s for s in range(1, 12) if s not in _TEST_SESSIONS)
_FOLDERS = ("core50_32x32", "core50_128x128")
_PIXELS = 32


def _parts(scenario: str, order: Order) -> dict[str, list[int]]:
    """Return by name of each task its sessions (`dil`), or its objects."""
    if scenario == "dil":
        return {f"session-{s}": [s] for s in (_TRAIN_SESSIONS[i] for i in class_order(len(_TRAIN_SESSIONS), order))}
    dealt = class_order(len(_LABELS), order)
    parts = (dealt[:10], *(dealt[i : i + 5] for i in range(10, 50, 5)))
    return {group_name([_LABELS[k] for k in part]): part for part in parts}


def _published(scenario: str, order: Order, **arguments: Any) -> Published:
    return [list(_parts(scenario, order))] * N_ORDERS, None


@image_stream(
    "CORe50",
    title="fifty objects in eleven sessions",
    source="vlomonaco.github.io/core50, by hand",
    licence="CC BY 4.0, as commonly stated",
    citation="Lomonaco and Maltoni, CoRL 2017",
    labels=_LABELS,
    orders=N_ORDERS,
    published=_published,
    own_files=own_files("core50_*/s*/o*/*"),
)
def CORe50(request: StreamRequest[Options]) -> list[ImageTask]:
    """Fifty objects, 32 x 32; a tenth of the training images is for validation. Images stay on the disk.

    Task-incremental there are nine tasks of new objects, domain-incremental eight of new sessions. A data root holds
    `core50_32x32/` or `core50_128x128/`.
    """
    root = request.folder()
    folder = next((root / name for name in _FOLDERS if root is not None and (root / name).is_dir()), None)
    if folder is None:
        raise UsageError(
            "CORe50 needs its folder core50_32x32 or core50_128x128 under --data-root: unpack the archive from "
            "vlomonaco.github.io/core50 there."
        )
    files = _files(folder)
    listing = "\n".join(file.relative_to(folder).as_posix() for pairs in files.values() for file, _ in pairs)
    request.files[f"{folder.name}, list of names"] = hashlib.sha256(listing.encode()).hexdigest()
    parts = _parts(request.scenario, request.order)
    train, test = _images(files, _TRAIN_SESSIONS), _images(files, _TEST_SESSIONS)

    def task(name: str) -> ImageTask:
        part = parts[name]
        if request.scenario == "dil":
            return image_task(request, name, _LABELS, _images(files, part), test)
        labels = tuple(_LABELS[k] for k in part)
        return image_task(request, name, labels, train.of_classes(part), test.of_classes(part))

    return [task(name) for name in request.task_names]


def _files(folder: Path) -> dict[int, list[tuple[Path, int]]]:
    """Return by session the files, each with its object."""
    return {
        session: [(file, k) for k in range(len(_LABELS)) for file in image_files(folder / f"s{session}" / f"o{k + 1}")]
        for session in range(1, 12)
    }


def _images(files: dict[int, list[tuple[Path, int]]], sessions: Sequence[int]) -> Images:
    pairs = [pair for session in sessions for pair in files[session]]
    return Images(ImageFiles([file for file, _ in pairs], _PIXELS), range(len(pairs)), [k for _, k in pairs], COLOUR)
