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
from typing import Any

from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._images import (
    Images,
    ImageSet,
    ImageTask,
    image_files,
    image_folder,
    image_stream,
    image_task,
    listed_images,
    name_bytes,
)
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks.images._dealing import N_ORDERS, class_order, class_task, deal
from nlpcl.config.orders import Order, Published
from nlpcl.options import Options
from nlpcl.registry import Known, KnownTask

_KINDS = (
    *("plug adapter", "mobile phone", "scissors", "light bulb", "can"),
    *("glasses", "ball", "marker", "cup", "remote control"),
)
_LABELS = tuple(f"{kind} {i}" for kind in _KINDS for i in range(1, 6))
_TEST_SESSIONS = (3, 7, 10)
_TRAIN_SESSIONS = tuple(s for s in range(1, 12) if s not in _TEST_SESSIONS)


def _parts(scenario: str, order: Order) -> dict[str, list[int]]:
    """Return by name of each task its sessions (`dil`), or its objects."""
    if scenario == "dil":
        return {f"session-{s}": [s] for s in (_TRAIN_SESSIONS[i] for i in class_order(len(_TRAIN_SESSIONS), order))}
    return deal(_LABELS, 5, order, first=10)


def _published(scenario: str, order: Order, **arguments: Any) -> Published:
    return [list(_parts(scenario, order))] * N_ORDERS, None


def _known(names: Sequence[str], scenario: str, order: Order, **arguments: Any) -> Known:
    parts = _parts(scenario, order)
    labels = {name: _LABELS if scenario == "dil" else tuple(_LABELS[k] for k in parts[name]) for name in names}
    return Known([KnownTask(labels[name]) for name in names], None)


@image_stream(
    "CORe50",
    title="fifty objects in eleven sessions",
    source="vlomonaco.github.io/core50, by hand",
    licence="CC BY 4.0, as commonly stated",
    citation="Lomonaco and Maltoni, CoRL 2017",
    labels=_LABELS,
    orders=N_ORDERS,
    published=_published,
    known=_known,
    own_files=own_files("core50_*/s*/o*/*"),
)
def CORe50(request: StreamRequest[Options]) -> list[ImageTask]:
    """Fifty objects, 32 x 32; a tenth of the training images is for validation. Images stay on the disk.

    Task-incremental there are nine tasks of new objects, domain-incremental eight of new sessions. A data root holds
    `core50_32x32/` or `core50_128x128/`.
    """
    advice = (
        "its folder core50_32x32 or core50_128x128 under --data-root: unpack the archive from "
        "vlomonaco.github.io/core50 there"
    )
    folder = image_folder(request, "core50_32x32", "core50_128x128", advice=advice)
    files = {
        session: [(file, k) for k in range(len(_LABELS)) for file in image_files(folder / f"s{session}" / f"o{k + 1}")]
        for session in range(1, 12)
    }
    listing = "\n".join(file.relative_to(folder).as_posix() for pairs in files.values() for file, _ in pairs)
    request.files[f"{folder.name}, list of names"] = hashlib.sha256(name_bytes(listing)).hexdigest()
    parts = _parts(request.scenario, request.order)

    def images(sessions: Sequence[int]) -> Images:
        return listed_images([pair for session in sessions for pair in files[session]], 32)

    data = ImageSet(_LABELS, images(_TRAIN_SESSIONS), images(_TEST_SESSIONS))
    if request.scenario == "dil":
        return [image_task(request, name, _LABELS, images(parts[name]), data.test) for name in request.task_names]
    return [class_task(request, data, name, parts[name]) for name in request.task_names]
