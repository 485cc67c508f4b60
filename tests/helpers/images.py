"""Tiny tasks of images: each class has its own bright rows, or columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nlpcl.benchmarks import StreamRequest
from nlpcl.benchmarks._images import GREY, Images, ImageSet, ImageSource, ImageTask, image_benchmark_from_tasks
from nlpcl.options import Options


def make_task(number: int, classes: int) -> ImageTask:
    generator = torch.Generator().manual_seed(number)

    def images(n: int) -> Images:
        targets = [i % classes for i in range(n)]
        pool = torch.rand(n, 1, 16, 16, generator=generator)
        for i, target in enumerate(targets):
            pool[i, :, 4 * target : 4 * target + 4] += 1
        return Images(pool / 2, range(n), targets, GREY)

    return ImageTask(f"task{number}", tuple("abc"[:classes]), images(48), images(8), images(16))


def read_set(source: ImageSource, root: Path) -> ImageSet:
    """Return a data set below a data root."""
    return source.read(StreamRequest("set", Options(), "til", 0, tasks=None, train_size=None, seed=0, root=root))


def of_other_classes(task: Any) -> Any:
    """The task with labels of its own, and what tells them apart changed: other words, columns in place of rows."""
    labels = tuple(f"other {label}" for label in task.labels)
    words = {"text_pair": {"good": "hot", "bad": "cold"}}
    parts = [
        Images(part.pool, part.rows, part.targets, part.normalise, lambda x: x.mT)
        if isinstance(part, Images)
        else part.replace(words, regex=True)
        for part in (task.train, task.valid, task.test)
    ]
    return type(task)(task.name, labels, *parts)


def tiny_images(scenario: str, classes: tuple[int, ...] = (3, 2)) -> Any:
    tasks = [make_task(i, c) for i, c in enumerate(classes)]
    if scenario == "cil":
        tasks[1:] = map(of_other_classes, tasks[1:])
    return image_benchmark_from_tasks(tasks, name="tiny", scenario=scenario)


def logits(strategy: Any, experience: Any, task: int) -> torch.Tensor:
    strategy.model.eval()
    with torch.no_grad():
        return strategy.model(torch.stack([experience.dataset[i][0] for i in range(16)]), task)
