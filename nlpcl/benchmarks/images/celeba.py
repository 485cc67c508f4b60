"""F-CelebA: does this person smile? A person a task (LEAF, Caldas et al., https://arxiv.org/abs/1812.01097).

The lists of images are downloaded; the images, which may not be passed on, must be fetched from their makers
(mmlab.ie.cuhk.edu.hk/projects/CelebA.html, `img_align_celeba.zip`) and unpacked under a data root.
"""

from __future__ import annotations

import torch

from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._files.published import known_labels, numbered_orders_of
from nlpcl.benchmarks._images import (
    COLOUR,
    Images,
    ImageTask,
    digest_of,
    image_folder,
    image_stream,
    image_task,
    read_image,
)
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks.images._leaf import CAT_REPOSITORY, read_leaf
from nlpcl.config.files import read_plain
from nlpcl.options import Options

_LABELS = ("not smiling", "smiling")
_LARGEST = 100
_PATH = "dat/celeba/small/iid/{split}/all_data_iid_01_05_keep_5_{split}_9.json"


@image_stream(
    "celeba",
    title="smiles of ten or twenty celebrities",
    source=f"{CAT_REPOSITORY} (lists); mmlab.ie.cuhk.edu.hk/projects/CelebA.html (images, by hand)",
    licence="images: research, not commercial; lists: none stated in the source repository",
    citation="Liu, Luo, Wang and Tang, ICCV 2015; Caldas et al., LEAF, 2019; as a stream: Ke, Liu and Huang, "
    "NeurIPS 2020",
    labels=_LABELS,
    orders=20,
    published=numbered_orders_of("celeba"),
    known=known_labels(_LABELS),
    own_files=own_files("img_align_celeba/*", "celeba/img_align_celeba/*"),
)
def CelebA(request: StreamRequest[Options]) -> list[ImageTask]:
    """Smiling or not, 32 x 32; task `celeba-k` is the person with the k-th smallest number; LEAF's own test split.

    A tenth of a person's training images is for validation; of the rest the first 100 are for training. More than ten
    tasks, or names up to `celeba-19`, mean twenty persons in natural order. A data root holds
    `celeba/img_align_celeba/` and may hold the lists.
    """
    advice = (
        "the images, which may not be passed on: get img_align_celeba.zip from "
        "mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack it as celeba/img_align_celeba under --data-root"
    )
    folder = image_folder(request, "celeba/img_align_celeba", "img_align_celeba", advice=advice)
    root = request.folder()
    download = root is None or not (root / "celeba" / "dat").is_dir()
    contents: dict[str, bytes] = {}
    people = {split: read_leaf(request, _PATH.format(split=split), download=download) for split in ("train", "test")}
    by_number = sorted(people["train"], key=int)

    def images(person: str, split: str) -> Images:
        files, labels = people[split][person]
        contents.update({file: read_plain(folder / file) for file in files})
        pool = torch.stack([read_image(contents[file], str(folder / file), 32) for file in files])
        return Images(pool, range(len(labels)), labels, COLOUR)

    def task(name: str) -> ImageTask:
        person = by_number[int(name.rpartition("-")[2])]
        return image_task(request, name, _LABELS, images(person, "train"), images(person, "test"), _LARGEST)

    tasks = [task(name) for name in request.task_names]
    request.files["celeba/img_align_celeba"] = digest_of(contents)
    return tasks
