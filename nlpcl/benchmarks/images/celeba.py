"""F-CelebA: does this person smile? A person a task (LEAF, Caldas et al., https://arxiv.org/abs/1812.01097).

The lists of images are downloaded; the images, which may not be passed on, must be fetched from their makers
(mmlab.ie.cuhk.edu.hk/projects/CelebA.html, `img_align_celeba.zip`) and unpacked under a data root.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._files.download import data_root, own_files
from nlpcl.benchmarks._images import (
    COLOUR,
    Images,
    ImageTask,
    image_benchmark_from_tasks,
    image_task,
    numbered_orders,
    read_image,
)
from nlpcl.benchmarks.images._leaf import REPOSITORY, read_leaf
from nlpcl.benchmarks.images._readers import digest_of
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

LABELS = ("not smiling", "smiling")
LARGEST = 100
SIZE = 32
PATH = "dat/celeba/small/iid/{split}/all_data_iid_01_05_keep_5_{split}_9.json"


def image_folder(root: str | Path | None) -> Path:
    """Where the images are: `img_align_celeba`, under a data root or its `celeba/`.

    :raises UsageError: there is no such folder.
    """
    given = data_root(root)
    for folder in [] if given is None else [given / "celeba" / "img_align_celeba", given / "img_align_celeba"]:
        if folder.is_dir():
            return folder
    raise UsageError(
        "celeba needs the images, which may not be passed on: get img_align_celeba.zip from "
        "mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack it as celeba/img_align_celeba under --data-root."
    )


@register_benchmark(
    "celeba",
    title="smiles of ten or twenty celebrities",
    source=f"{REPOSITORY} (lists); mmlab.ie.cuhk.edu.hk/projects/CelebA.html (images, by hand)",
    licence="images: research, not commercial; lists: none stated in the source repository",
    citation="Liu, Luo, Wang and Tang, ICCV 2015; Caldas et al., LEAF, 2019; as a stream: Ke, Liu and Huang, "
    "NeurIPS 2020",
    language="",
    labels=LABELS,
    orders=20,
    modality="image",
    published=lambda order, tasks, **asked: (numbered_orders("celeba", order, tasks), None),
    own_files=own_files("img_align_celeba/*", "celeba/img_align_celeba/*"),
)
def CelebA(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Smiling or not, 32 x 32; task `celeba-k` is the person with the k-th smallest number; LEAF's own test split.

    A tenth of a person's training images is for validation; of the rest the first 100 are for training.

    :param scenario: `til` or `dil`.
    :param order: number of a published order, 0 to 19, or a list of `celeba-0` to `celeba-19`.
    :param tasks: only the first so many tasks of the order; more than ten: of twenty persons in natural order.
    :param train_size: at most so many training images per task, drawn with `seed`.
    :param seed: seed of that draw and of the validation data's.
    :param root: folder that holds `celeba/img_align_celeba/` and may hold the lists; None: NLPCL_DATA.
    :raises UsageError: unknown order or task; lists or images missing.
    """
    names = order_tasks(numbered_orders("celeba", order, tasks), order, tasks)
    folder = image_folder(root)
    # The lists may be downloaded though the images are under a data root.
    given = data_root(root)
    lists = root if given is not None and (given / "celeba" / "dat").is_dir() else None
    used: dict[str, str] = {}
    seen: dict[str, bytes] = {}
    people = {split: read_leaf("celeba", PATH.format(split=split), lists, used) for split in ("train", "test")}
    by_number = sorted(people["train"], key=int)

    def images(person: str, split: str) -> Images:
        files, labels = people[split][person]
        pool = torch.stack([read_image(folder / file, SIZE) for file in files])
        seen.update({file: (folder / file).read_bytes() for file in files})
        return Images(pool, range(len(labels)), labels, COLOUR)

    def task(name: str) -> ImageTask:
        person = by_number[int(name.rpartition("-")[2])]
        return image_task(name, LABELS, images(person, "train"), images(person, "test"), train_size, seed, LARGEST)

    made = [task(name) for name in names]
    used["celeba/img_align_celeba"] = digest_of(seen)
    return image_benchmark_from_tasks(made, name="celeba", scenario=scenario, labels=LABELS, files=used)
