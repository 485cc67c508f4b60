"""Tiny ImageNet, `tiny-imagenet-200/` under a data root as unpacked. Its makers state no SHA-256: no download."""

from __future__ import annotations

from typing import Any

from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._images import ImageSet, ImageSource, image_folder, listed_images
from nlpcl.benchmarks._stream import StreamRequest


def _read(request: StreamRequest[Any]) -> ImageSet:
    """Return Tiny ImageNet, 64 x 64; its validation images serve as test. Images stay on the disk."""
    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    advice = f"the folder tiny-imagenet-200 under --data-root: unpack {url} there"
    folder = image_folder(request, "tiny-imagenet-200", advice=advice)
    names, notes = (
        request.read(f"tiny-imagenet-200/{path}").decode() for path in ("wnids.txt", "val/val_annotations.txt")
    )
    classes = tuple(names.split())
    train = [(file, k) for k, c in enumerate(classes) for file in sorted((folder / "train" / c / "images").iterdir())]
    rows = [line.split("\t")[:2] for line in notes.splitlines()]
    test = [(folder / "val" / "images" / name, classes.index(c)) for name, c in sorted(rows)]
    return ImageSet(classes, listed_images(train, 64), listed_images(test, 64))


TINY_IMAGENET = ImageSource(
    {
        "source": "cs231n.stanford.edu/tiny-imagenet-200.zip, to be fetched by hand",
        "licence": "that of ImageNet: research, not commercial",
        "citation": "Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
        "sizes": (90_000, 10_000, 10_000),
        "own_files": own_files(
            *(f"tiny-imagenet-200/{part}" for part in ("wnids.txt", "val/*.txt", "val/images/*", "train/*/images/*"))
        ),
    },
    [(500, 50)] * 200,
    None,
    _read,
)
