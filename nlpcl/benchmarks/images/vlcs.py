"""VLCS: five kinds of objects in four photo collections (Fang, Xu and Rockmore, ICCV 2013).

The images are the user's to fetch; they stand at `vlcs/<domain>/<class>/<name>` under a data root, with the domains
sun, pascal, labelme and caltech. The layout has no test split, so a fifth of each class of a domain is for test and
a tenth of the rest for validation, drawn with a private generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import draw_rows, orders_of, published_orders
from nlpcl.benchmarks._files.download import data_root, own_files
from nlpcl.benchmarks._images import (
    COLOUR,
    Images,
    ImageTask,
    image_benchmark_from_tasks,
    image_task,
    read_image,
)
from nlpcl.benchmarks.images._readers import SUFFIXES, digest_of
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

LABELS = ("bird", "car", "chair", "dog", "person")
SIZE = 32


@register_benchmark(
    "vlcs",
    title="objects in four photo collections",
    source="by hand, see the module's text",
    licence="that of the four collections; research",
    citation="Fang, Xu and Rockmore, ICCV 2013; Torralba and Efros, CVPR 2011",
    language="",
    labels=LABELS,
    orders=1,
    modality="image",
    published=orders_of("vlcs"),
    own_files=own_files("vlcs/*/*/*"),
)
def VLCS(
    scenario: str = "dil",
    order: int | str | Sequence[str] = 0,
    *,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Five classes in four domains, 32 x 32.

    :param scenario: `dil` or `til`.
    :param order: 0, or a list of domains.
    :param tasks: only the first so many.
    :param train_size: at most so many training images per task, drawn with `seed`.
    :param seed: seed of that draw and of the validation data's; the test data do not depend on it.
    :param root: folder that holds `vlcs/`; None: NLPCL_DATA.
    :raises UsageError: unknown order or domain; a folder missing or without images.
    """
    names = order_tasks(published_orders("vlcs"), order, tasks)
    given = data_root(root)
    if given is None or not (given / "vlcs").is_dir():
        raise UsageError("vlcs needs its images as vlcs/<domain>/<class>/<name>.jpg under --data-root.")
    folder = given / "vlcs"
    used: dict[str, str] = {}

    def task(domain: str) -> ImageTask:
        train: list[tuple[Path, int]] = []
        test: list[tuple[Path, int]] = []
        for label, kind in enumerate(LABELS):
            found = [file for file in sorted((folder / domain / kind).glob("*")) if file.suffix.lower() in SUFFIXES]
            if len(found) < 2:
                raise UsageError(f"{folder / domain / kind} needs at least two images; complete the data root.")
            for_test = set(draw_rows(len(found), max(1, len(found) // 5), 0))
            for i, file in enumerate(found):
                (test if i in for_test else train).append((file, label))
        contents = {file.relative_to(folder).as_posix(): file.read_bytes() for file, _ in train + test}
        used[f"vlcs/{domain}"] = digest_of(contents)
        return image_task(domain, LABELS, _images(train), _images(test), train_size, seed)

    made = [task(name) for name in names]
    return image_benchmark_from_tasks(made, name="vlcs", scenario=scenario, labels=LABELS, files=used)


def _images(files: list[tuple[Path, int]]) -> Images:
    pool = torch.stack([read_image(file, SIZE) for file, _ in files])
    return Images(pool, range(len(files)), [label for _, label in files], COLOUR)
