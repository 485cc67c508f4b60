"""F-EMNIST: characters of ten writers, a writer a task (LEAF, Caldas et al., https://arxiv.org/abs/1812.01097)."""

from __future__ import annotations

import string
from typing import Any

import torch

from nlpcl.benchmarks._files.published import known_data, orders_of
from nlpcl.benchmarks._images import GREY, Images, ImageTask, image_stream, image_task
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks.images._leaf import CAT_REPOSITORY, read_leaf
from nlpcl.options import Options

_LABELS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
_LARGEST = 6200


def _path(name: str, split: str) -> str:
    writer = name.rpartition("-")[2]
    return f"dat/femnist/small/iid/{split}10/all_data_{writer}_iid_01_05_keep_0_{split}_9.json"


@image_stream(
    "femnist",
    title="handwritten characters of ten writers",
    source=CAT_REPOSITORY,
    licence="none stated in the source repository; LEAF: BSD 2-Clause; NIST Special Database 19: public domain",
    citation="Caldas et al., LEAF, 2019; as a stream: Ke, Liu and Huang, NeurIPS 2020",
    labels=_LABELS,
    orders=20,
    sizes=(6_911, 762, 858),
    published=orders_of("femnist"),
    known=known_data("femnist", lambda name: _LABELS, lambda name: (_path(name, split) for split in ("train", "test"))),
)
def FEMNIST(request: StreamRequest[Options]) -> list[ImageTask]:
    """62 characters (digits, capitals, small letters) by ten writers, 28 x 28, grey; LEAF's own test split.

    Tasks are `femnist-0` to `femnist-9`. A tenth of a writer's training images is for validation. Under a data root the
    files are in `femnist/`.
    """

    def images(name: str, split: str) -> Images:
        rows: list[Any] = []
        labels: list[int] = []
        for x, y in read_leaf(request, _path(name, split)).values():
            rows += x
            labels += y
        pool = torch.tensor(rows, dtype=torch.float32).reshape(-1, 1, 28, 28)
        return Images(pool, range(len(labels)), labels, GREY)

    return [
        image_task(request, name, _LABELS, images(name, "train"), images(name, "test"), _LARGEST)
        for name in request.task_names
    ]
