"""F-EMNIST: characters of ten writers, a writer a task (LEAF, Caldas et al., https://arxiv.org/abs/1812.01097)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import orders_of, published_orders
from nlpcl.benchmarks._images import GREY, Images, ImageTask, image_benchmark_from_tasks, image_task
from nlpcl.benchmarks.images._leaf import REPOSITORY, read_leaf
from nlpcl.config.orders import order_tasks
from nlpcl.registry import register_benchmark

LABELS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
LARGEST = 6200


@register_benchmark(
    "femnist",
    title="handwritten characters of ten writers",
    source=REPOSITORY,
    licence="none stated in the source repository; LEAF: BSD 2-Clause; NIST Special Database 19: public domain",
    citation="Caldas et al., LEAF, 2019; as a stream: Ke, Liu and Huang, NeurIPS 2020",
    language="",
    labels=LABELS,
    orders=20,
    sizes=(6_911, 762, 858),
    modality="image",
    published=orders_of("femnist"),
)
def FEMNIST(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """62 characters (digits, capitals, small letters) by ten writers, 28 x 28, grey; LEAF's own test split.

    A tenth of a writer's training images is for validation.

    :param scenario: `til` or `dil`.
    :param order: number of a published order, 0 to 19, or a list of `femnist-0` to `femnist-9`.
    :param tasks: only the first so many tasks of the order.
    :param train_size: at most so many training images per task, drawn with `seed`.
    :param seed: seed of that draw and of the validation data's.
    :param root: folder that holds `femnist/`; None: downloaded, unless NLPCL_DATA names one.
    :raises UsageError: unknown order or task; a file missing, altered or out of reach.
    """
    used: dict[str, str] = {}

    def images(writer: str, split: str) -> Images:
        path = f"dat/femnist/small/iid/{split}10/all_data_{writer}_iid_01_05_keep_0_{split}_9.json"
        rows: list[Any] = []
        labels: list[int] = []
        for x, y in read_leaf("femnist", path, root, used).values():
            rows += x
            labels += y
        pool = torch.tensor(rows, dtype=torch.float32).reshape(-1, 1, 28, 28)
        return Images(pool, range(len(labels)), labels, GREY)

    def task(name: str) -> ImageTask:
        writer = name.rpartition("-")[2]
        return image_task(name, LABELS, images(writer, "train"), images(writer, "test"), train_size, seed, LARGEST)

    return image_benchmark_from_tasks(
        [task(name) for name in order_tasks(published_orders("femnist"), order, tasks)],
        name="femnist",
        scenario=scenario,
        labels=LABELS,
        files=used,
    )
