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

from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._files.download import data_root, own_files
from nlpcl.benchmarks._images import COLOUR, ImageFiles, Images, image_benchmark_from_tasks, image_task
from nlpcl.benchmarks.images._readers import SUFFIXES
from nlpcl.benchmarks.images.split import ORDERS, class_order, group_name
from nlpcl.config.orders import Published, order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

KINDS = (
    *("plug adapter", "mobile phone", "scissors", "light bulb", "can"),
    *("glasses", "ball", "marker", "cup", "remote control"),
)
LABELS = tuple(f"{kind} {i}" for kind in KINDS for i in range(1, 6))
TEST_SESSIONS = (3, 7, 10)
TRAIN_SESSIONS = tuple(s for s in range(1, 12) if s not in TEST_SESSIONS)
FOLDERS = ("core50_32x32", "core50_128x128")
SIZE = 32


def _dealt(scenario: str, order: object) -> dict[str, list[int]]:
    """By name of each task its sessions (`dil`), or its objects."""
    number = order if isinstance(order, int) and 0 <= order < ORDERS else 0
    if scenario == "dil":
        sessions = [TRAIN_SESSIONS[i] for i in class_order(len(TRAIN_SESSIONS), number)]
        return {f"session-{s}": [s] for s in sessions}
    dealt = class_order(len(LABELS), number)
    parts = (dealt[:10], *(dealt[i : i + 5] for i in range(10, 50, 5)))
    return {group_name([LABELS[k] for k in own]): own for own in parts}


def _published(scenario: str, order: object, **asked: Any) -> Published:
    return [list(_dealt(scenario, order))] * ORDERS, None


@register_benchmark(
    "CORe50",
    title="fifty objects in eleven sessions",
    source="vlomonaco.github.io/core50, by hand",
    licence="CC BY 4.0, as commonly stated",
    citation="Lomonaco and Maltoni, CoRL 2017",
    language="",
    labels=LABELS,
    orders=ORDERS,
    modality="image",
    published=_published,
    own_files=own_files("core50_*/s*/o*/*"),
)
def CORe50(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Fifty objects, 32 x 32; a tenth of the training images is for validation. Images stay on the disk.

    :param scenario: `til`, nine tasks of new objects, or `dil`, eight tasks of new sessions.
    :param order: 0, the natural one, to 19; or names of tasks.
    :param tasks: only the first so many.
    :param train_size: at most so many training images per task, drawn with `seed`.
    :param seed: seed of that draw and of the validation data's.
    :param root: folder that holds `core50_32x32/` or `core50_128x128/`; None: NLPCL_DATA.
    :raises UsageError: unknown order or task; the images are missing.
    """
    given = data_root(root)
    folder = next((given / name for name in FOLDERS if given is not None and (given / name).is_dir()), None)
    if folder is None:
        raise UsageError(
            "CORe50 needs its folder core50_32x32 or core50_128x128 under --data-root: unpack the archive from "
            "vlomonaco.github.io/core50 there."
        )
    found = _images(folder)
    dealt, made = _dealt(scenario, order), []
    trains, tests = _part(found, TRAIN_SESSIONS), _part(found, TEST_SESSIONS)
    for name in order_tasks([list(dealt)] * ORDERS, order, tasks):
        own = dealt[name]
        if scenario == "dil":
            labels, train, test = LABELS, _part(found, own), tests
        else:
            labels, train, test = tuple(LABELS[k] for k in own), trains.of_classes(own), tests.of_classes(own)
        made.append(image_task(name, labels, train, test, train_size, seed))
    shared = LABELS if scenario == "dil" else None
    listing = "\n".join(file.relative_to(folder).as_posix() for files in found.values() for file, _ in files)
    files = {f"{folder.name}, list of names": hashlib.sha256(listing.encode()).hexdigest()}
    return image_benchmark_from_tasks(made, name="CORe50", scenario=scenario, labels=shared, files=files)


def _images(folder: Path) -> dict[int, list[tuple[Path, int]]]:
    """Files with their objects, by session."""
    return {
        session: [
            (file, k)
            for k in range(len(LABELS))
            for file in sorted((folder / f"s{session}" / f"o{k + 1}").glob("*"))
            if file.suffix.lower() in SUFFIXES
        ]
        for session in range(1, 12)
    }


def _part(found: dict[int, list[tuple[Path, int]]], sessions: Sequence[int]) -> Images:
    files = [pair for session in sessions for pair in found[session]]
    return Images(ImageFiles([file for file, _ in files], SIZE), range(len(files)), [k for _, k in files], COLOUR)
