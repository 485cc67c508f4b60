"""Image streams: `Images`, tasks of them, a benchmark, and the decorator that makes a stream of a function."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nlpcl.benchmarks._base import SPLITS, Benchmark, Examples, Task, draw_rows, labelled
from nlpcl.benchmarks._files.content import image_of
from nlpcl.benchmarks._stream import StreamRequest, register_stream
from nlpcl.config.files import read_plain
from nlpcl.errors import UsageError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Normalisation:
    """Maps images in [0, 1] to (x - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


# The original toolkit's: MNIST's for all grey images, those of its CelebA reader for all coloured ones.
GREY = Normalisation((0.1307,), (0.3081,))
COLOUR = Normalisation((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))


def read_image(content: bytes, place: str, size: int) -> Tensor:
    """Return an image as a uint8 tensor (3, size, size), resized if it has another size.

    :param content: of a JPEG or PNG file.
    :param place: the file, or the archive and its member, for the message.
    :raises UsageError: it is no image.
    """
    image = image_of(content, place)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay on the disk until they are indexed.

    :param paths: the files.
    :param size: pixels a side they are resized to.
    """

    paths: Sequence[Path]
    size: int

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        return read_image(read_plain(path), str(path), self.size)


@dataclass(eq=False, repr=False)
class Images(Examples):
    """Some images of a pool with their classes. An example is ((C, H, W), class).

    Several tasks may share a pool: each names its rows of it.

    :param pool: uint8, or float in [0, 1], (N, C, H, W); or files.
    :param rows: which images of the pool.
    :param targets: class of each of these rows.
    :param normalise: the normalisation.
    :param change: changes images (B, C, H, W) in [0, 1] before that; None means no change.
    """

    pool: Tensor | ImageFiles
    rows: Sequence[int]
    targets: Sequence[int]
    normalise: Normalisation
    change: Callable[[Tensor], Tensor] | None = None

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of the examples `rows`, LongTensor (B,)."""
        chosen = [self.rows[row] for row in rows.tolist()]
        x = self.pool[chosen] if isinstance(self.pool, Tensor) else torch.stack([self.pool[row] for row in chosen])
        if x.dtype == torch.uint8:
            x = x / 255
        if self.change is not None:
            x = self.change(x)
        return self.normalise(x)

    def take(self, positions: Sequence[int]) -> Images:
        """Return the images at `positions`."""
        return replace(self, rows=[self.rows[i] for i in positions], targets=[self.targets[i] for i in positions])

    def of_classes(self, classes: Sequence[int]) -> Images:
        """Return the images of some classes; class `classes[k]` becomes k."""
        taken = self.take([i for i, target in enumerate(self.targets) if target in classes])
        return replace(taken, targets=[classes.index(target) for target in taken.targets])


@dataclass(frozen=True)
class ImageSet:
    """A data set of images, before it is cut into tasks.

    :param classes: names of the classes; a target is an index into them.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images


@dataclass(frozen=True)
class ImageSource:
    """A data set of which several streams are made.

    :param facts: fields of `BenchmarkEntry` that these streams share.
    :param class_sizes: numbers of training and of test images of each class, in the order of the classes.
    :param files: SHA-256 by name of its published files, None where nobody stated it; None instead of all means that
        none are published.
    :param read: reads the set below a request's data root, or downloads it, and notes the SHA-256 of its files; raises
        a UsageError if a file is missing, damaged or out of reach.
    """

    facts: dict[str, Any]
    class_sizes: Sequence[tuple[int, int]]
    files: Mapping[str, str | None] | None
    read: Callable[[StreamRequest[Any]], ImageSet]


class ImageTask(Task[Images]):
    """One task of an image stream.

    :param name: the task's name.
    :param labels: names of the classes; a target is an index into them.
    :raises UsageError: a split is empty or a target out of range.
    """

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
    notes: Sequence[str] = (),
) -> Benchmark:
    """Return a benchmark of images; every example is (C, H, W).

    :param tasks: in the order of the stream.
    :param name: the benchmark's name.
    :param scenario: `til`, `dil` or `cil`, as in `Benchmark`.
    :param labels: the label set of the shared head, as in `Benchmark`.
    :param files: path and SHA-256 of the files the data come from.
    :param notes: sentences on what may spoil a result.
    :raises UsageError: as `Benchmark`.
    """

    def examples(images: Images, task: int, classes: Sequence[int]) -> Any:
        return labelled(replace(images, targets=[classes[target] for target in images.targets]), task)

    return Benchmark(
        tasks,
        examples,
        name=name,
        scenario=scenario,
        modality="image",
        input_shape=tuple(tasks[0].train[0][0].shape) if tasks else (),
        labels=labels,
        files=files,
        notes=notes,
    )


def split_sizes(train: int, test: int) -> tuple[int, int, int]:
    """Return the numbers of training, validation and test images of a task, as `image_task` makes them."""
    n_valid = max(1, train // 10)
    return train - n_valid, n_valid, test


def image_task(
    request: StreamRequest[Any],
    name: str,
    labels: tuple[str, ...],
    train: Images,
    test: Images,
    largest: int | None = None,
) -> ImageTask:
    """Return a task whose validation data are a tenth of the training data, drawn with the request's seed.

    :param request: says how many training examples to keep at most.
    :param largest: training examples that the stream has at most, whatever the request says.
    """
    rows = list(range(len(train)))
    random.Random(request.seed).shuffle(rows)
    n_valid = split_sizes(len(rows), len(test))[1]
    kept = train.take(rows[n_valid:][:largest])
    drawn = draw_rows(len(kept), request.train_size, request.seed)
    return ImageTask(name, labels, kept.take(drawn), train.take(rows[:n_valid]), test)


def digest_of(contents: Mapping[str, bytes]) -> str:
    """Return one SHA-256 over names and contents of many files."""
    digest = hashlib.sha256()
    for path in sorted(contents):
        digest.update(name_bytes(f"{path} {hashlib.sha256(contents[path]).hexdigest()}\n"))
    return digest.hexdigest()


def name_bytes(names: str) -> bytes:
    """Return names of files as the bytes that they are on a disk, which need not be UTF-8."""
    return names.encode("utf-8", "surrogateescape")


def check_classes(names: Sequence[str], place: str) -> None:
    """Refuse names of classes that are alike, empty, longer than a file's or hold characters that do not print.

    :param place: the file or folder that names them.
    :raises UsageError: naming the first of these.
    """
    for name, count in Counter(names).items():
        if not name or len(name) > 255 or not name.isprintable():
            raise UsageError(f"{place}: {name!r} cannot be the name of a class; replace it by the original.")
        if count > 1:
            raise UsageError(f"{place} names the class {name!r} twice; replace it by the original.")


def image_folder(request: StreamRequest[Any], *names: str, advice: str) -> Path:
    """Return the first folder of these names that is under the data root.

    :param advice: what the stream needs.
    :raises UsageError: there is none.
    """
    root = request.folder()
    for name in names:
        if root is not None and (root / name).is_dir():
            return root / name
    raise UsageError(f"{request.name} needs {advice}.")


def listed_images(files: Sequence[tuple[Path, int]], size: int) -> Images:
    """Return images that stay on the disk, of files with their classes."""
    pool = ImageFiles([file for file, _ in files], size)
    return Images(pool, range(len(files)), [label for _, label in files], COLOUR)


def is_image(path: PurePath) -> bool:
    """Return whether a file is a JPEG or PNG image by its name. Hidden ones (`._1.png` of a Mac) hold none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """Return the JPEG and PNG files in a folder, by name; none where there is no folder."""
    return [file for file in sorted(folder.glob("*")) if is_image(file)]


image_stream = partial(register_stream, image_benchmark_from_tasks, modality="image", language="")
"""Return a decorator that makes an image stream of the function that loads its tasks; see `text_stream`."""
