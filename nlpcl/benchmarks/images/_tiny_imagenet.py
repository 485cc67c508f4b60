"""Tiny ImageNet, `tiny-imagenet-200/` under a data root as unpacked. Its makers state no SHA-256: no download."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._images import COLOUR, ImageFiles, Images, ImageSet
from nlpcl.errors import UsageError

TINY_IMAGENET: dict[str, Any] = {
    "source": "cs231n.stanford.edu/tiny-imagenet-200.zip, to be fetched by hand",
    "licence": "that of ImageNet: research, not commercial",
    "citation": "Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
    "own_files": own_files(
        *(f"tiny-imagenet-200/{part}" for part in ("wnids.txt", "val/*.txt", "val/images/*", "train/*/images/*"))
    ),
}


def read_tiny_imagenet(root: Path | None) -> ImageSet:
    """Return Tiny ImageNet, 64 x 64; its validation images serve as test. Images stay on the disk.

    :raises UsageError: it is not under the data root.
    """
    folder = (root or Path()) / "tiny-imagenet-200"
    names, notes = folder / "wnids.txt", folder / "val" / "val_annotations.txt"
    if root is None or not names.is_file() or not notes.is_file():
        raise UsageError(
            "SplitTinyImageNet needs the folder tiny-imagenet-200 under --data-root: unpack "
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip there."
        )
    classes = tuple(names.read_text(encoding="utf-8").split())
    train = [(file, k) for k, c in enumerate(classes) for file in sorted((folder / "train" / c / "images").iterdir())]
    rows = [line.split("\t")[:2] for line in notes.read_text(encoding="utf-8").splitlines()]
    test = [(folder / "val" / "images" / name, classes.index(c)) for name, c in sorted(rows)]
    parts = [
        Images(ImageFiles([file for file, _ in part], 64), range(len(part)), [label for _, label in part], COLOUR)
        for part in (train, test)
    ]
    files = {f"tiny-imagenet-200/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in (names, notes)}
    return ImageSet(classes, parts[0], parts[1], files)
