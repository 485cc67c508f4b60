"""Tiny ImageNet, `tiny-imagenet-200/` under a data root as unpacked. Its makers state no SHA-256: no download."""

from __future__ import annotations

import re
from typing import Any

from nlpcl.benchmarks._files.content import numbered_lines, text_of
from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._images import ImageSet, ImageSource, check_classes, image_files, image_folder, listed_images
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.errors import UsageError

_WORDNET_ID = re.compile(r"n[0-9]+")


def _read(request: StreamRequest[Any]) -> ImageSet:
    """Return Tiny ImageNet, 64 x 64; its validation images serve as test. Images stay on the disk."""
    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    advice = f"the folder tiny-imagenet-200 under --data-root: unpack {url} there"
    folder = image_folder(request, "tiny-imagenet-200", advice=advice)
    names, notes = "tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/val/val_annotations.txt"
    classes = tuple(text_of(request.read(names), names).split())
    check_classes(classes, names)
    train = []
    for k, c in enumerate(classes):
        if not _WORDNET_ID.fullmatch(c):
            raise UsageError(f"{names}: {c!r} is no class, as n01443537 is; replace it by the original.")
        files = image_files(folder / "train" / c / "images")
        if not files:
            raise UsageError(f"{folder / 'train' / c / 'images'} holds no images; complete the data root.")
        train += [(file, k) for file in files]
    tested = {file.name: file for file in image_files(folder / "val" / "images")}
    test = []
    for number, line in numbered_lines(text_of(request.read(notes), notes)):
        name, *rest = line.split("\t")
        if name not in tested or not rest or rest[0] not in classes:
            raise UsageError(
                f"{notes}, line {number}: it must name an image in val/images and one of the classes of wnids.txt; "
                "complete the data root."
            )
        test.append((tested[name], classes.index(rest[0])))
    return ImageSet(classes, listed_images(train, 64), listed_images(sorted(test), 64))


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
