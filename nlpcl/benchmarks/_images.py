"""From images to an Avalanche benchmark: `Images`, `ImageTask` and `image_benchmark_from_tasks`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from avalanche.benchmarks import CLScenario
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from nlpcl.benchmarks._base import SPLITS, benchmark_from_tasks, draw_rows, labelled, published_orders
from nlpcl.errors import UsageError


@dataclass(frozen=True)
class Scale:
    """Normalisation of images in [0, 1]: (x - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


# The original toolkit's: MNIST's for all grey images, those of its CelebA reader for all coloured ones.
GREY = Scale((0.1307,), (0.3081,))
COLOUR = Scale((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))


def read_image(file: Path | IO[bytes], size: int | None = None) -> Tensor:
    """An image file as a uint8 tensor (3, H, W), resized to `size` x `size` if given.

    :raises UsageError: it is missing or no image.
    """
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(
            f"{getattr(file, 'name', file)} cannot be read as an image ({type(error).__name__}); "
            "complete the data root."
        ) from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class ImageFiles:
    """Images that stay on the disk until they are asked for.

    :param paths: the files.
    :param size: pixels a side they are resized to.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = list(paths)
        self.size = size

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.paths[index], self.size)


class Images(Dataset[tuple[Tensor, int]]):
    """Some images of a pool with their classes; an example is ((C, H, W), class).

    Several tasks may share a pool: each names its rows of it.

    :param pool: uint8, or float in [0, 1], (N, C, H, W); or files.
    :param rows: which images of the pool.
    :param targets: class of each of these rows.
    :param scale: the normalisation.
    :param change: what is done to images (B, C, H, W) in [0, 1] before that.
    """

    def __init__(
        self,
        pool: Tensor | ImageFiles,
        rows: Sequence[int],
        targets: Sequence[int],
        scale: Scale,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.pool = pool
        self.rows = list(rows)
        self.targets = list(targets)
        self._classes = torch.tensor(self.targets)
        self.scale = scale
        self.change = change

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.gather(torch.tensor([index]))
        return x[0], int(y[0])

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The examples `rows`, LongTensor (B,): images (B, C, H, W) and classes (B,)."""
        chosen = [self.rows[row] for row in rows.tolist()]
        x = self.pool[chosen] if isinstance(self.pool, Tensor) else torch.stack([self.pool[row] for row in chosen])
        if x.dtype == torch.uint8:
            x = x / 255
        if self.change is not None:
            x = self.change(x)
        return self.scale(x), self._classes[rows]

    def take(self, positions: Sequence[int]) -> Images:
        """Those at `positions`."""
        rows, targets = [self.rows[i] for i in positions], [self.targets[i] for i in positions]
        return Images(self.pool, rows, targets, self.scale, self.change)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Images:
        """The same images under another change."""
        return Images(self.pool, self.rows, self.targets, self.scale, change)

    def of_classes(self, classes: Sequence[int]) -> Images:
        """The images of some classes; class `classes[k]` becomes k."""
        new = {old: k for k, old in enumerate(classes)}
        positions = [i for i, target in enumerate(self.targets) if target in new]
        taken = self.take(positions)
        return Images(taken.pool, taken.rows, [new[target] for target in taken.targets], self.scale, self.change)


@dataclass(frozen=True)
class ImageTask:
    """One task of an image stream.

    :param name: the task's name.
    :param labels: names of the classes; a target is an index into them.
    :raises UsageError: a split is empty or a target out of range.
    """

    name: str
    labels: tuple[str, ...]
    train: Images
    valid: Images
    test: Images

    def __post_init__(self) -> None:
        for split in SPLITS:
            targets = getattr(self, split).targets
            if not targets:
                raise UsageError(f"task {self.name}, {split}: there are no images.")
            if min(targets) < 0 or max(targets) >= len(self.labels):
                raise UsageError(f"task {self.name}, {split}: a label is not in 0 to {len(self.labels) - 1}.")


def image_benchmark_from_tasks(
    tasks: Sequence[ImageTask],
    *,
    name: str,
    scenario: str,
    labels: tuple[str, ...] | None = None,
    files: Mapping[str, str] | None = None,
) -> CLScenario[Any]:
    """A benchmark of images; every example is (C, H, W), and `input_shape` says which.

    :param tasks: in the order of the stream.
    :param name: the benchmark's name.
    :param scenario: `til`, `dil` or `cil`, as in `benchmark_from_tasks`.
    :param labels: the label set of the shared head, as in `benchmark_from_tasks`.
    :param files: path and SHA-256 of the files the data come from.
    :raises UsageError: as in `benchmark_from_tasks`.
    """

    def dataset(images: Images, task: int, classes: Sequence[int]) -> Any:
        targets = [classes[target] for target in images.targets]
        return labelled(Images(images.pool, images.rows, targets, images.scale, images.change), targets, task)

    benchmark = benchmark_from_tasks(tasks, dataset, name=name, scenario=scenario, labels=labels, files=files)
    benchmark.modality = "image"
    benchmark.input_shape = tuple(tasks[0].train[0][0].shape)
    return benchmark


def image_task(
    name: str,
    labels: tuple[str, ...],
    train: Images,
    test: Images,
    train_size: int | None,
    seed: int,
    cap: int | None = None,
) -> ImageTask:
    """A task whose validation data are a tenth of the training data.

    :param train_size: at most so many training examples are kept, drawn with `seed`.
    :param seed: seed of the draw of the validation data, too.
    :param cap: training examples that the stream has at most, whatever `train_size` says.
    """
    rows = list(range(len(train)))
    random.Random(seed).shuffle(rows)
    n_valid = max(1, len(rows) // 10)
    kept = train.take(rows[n_valid:][:cap])
    return ImageTask(name, labels, kept.take(draw_rows(len(kept), train_size, seed)), train.take(rows[:n_valid]), test)


def numbered_orders(name: str, order: object, tasks: object) -> list[list[str]]:
    """Orders of the tasks `<name>-0`, `<name>-1`, ...: of ten, or of twenty where more than ten are asked for.

    Where no order of twenty was published there is one, the natural one.

    :param order: as in `order_tasks`; names beyond the tenth ask for twenty.
    :param tasks: as in `order_tasks`.
    """
    ten = published_orders(name)
    asked = [] if isinstance(order, (int, str)) else list(order)  # type: ignore[call-overload]
    twenty = [f"{name}-{i}" for i in range(20)]
    if (isinstance(tasks, int) and tasks > 10) or (not set(asked) <= set(ten[0]) and set(asked) <= set(twenty)):
        try:
            return published_orders(f"{name}_20")
        except KeyError:
            return [twenty]
    return ten
