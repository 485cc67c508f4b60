"""VLCS: five kinds of objects in four photo collections (Fang, Xu and Rockmore, ICCV 2013).

The images are the user's to fetch; they stand at `vlcs/<domain>/<class>/<name>` under a data root, with the domains
sun, pascal, labelme and caltech. The layout has no test split, so a fifth of each class of a domain is for test and
a tenth of the rest for validation, drawn with a private generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nlpcl.benchmarks._base import draw_rows
from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._files.published import known_labels, orders_of
from nlpcl.benchmarks._images import (
    COLOUR,
    Images,
    ImageTask,
    digest_of,
    image_files,
    image_folder,
    image_stream,
    image_task,
    read_image,
)
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.config.files import read_plain
from nlpcl.errors import UsageError
from nlpcl.options import Options

_LABELS = ("bird", "car", "chair", "dog", "person")


@image_stream(
    "vlcs",
    title="objects in four photo collections",
    source="by hand, see the module's text",
    licence="that of the four collections; research",
    citation="Fang, Xu and Rockmore, ICCV 2013; Torralba and Efros, CVPR 2011",
    labels=_LABELS,
    scenarios=("dil", "til"),
    published=orders_of("vlcs"),
    known=known_labels(_LABELS),
    own_files=own_files("vlcs/*/*/*"),
)
def VLCS(request: StreamRequest[Options]) -> list[ImageTask]:
    """Five classes in four domains, 32 x 32. The test data do not depend on `seed`. A data root holds `vlcs/`."""
    folder = image_folder(request, "vlcs", advice="its images as vlcs/<domain>/<class>/<name>.jpg under --data-root")

    def task(domain: str) -> ImageTask:
        train: list[tuple[Path, int]] = []
        test: list[tuple[Path, int]] = []
        for label, kind in enumerate(_LABELS):
            files = image_files(folder / domain / kind)
            if len(files) < 2:
                raise UsageError(f"{folder / domain / kind} needs at least two images; complete the data root.")
            for_test = set(draw_rows(len(files), max(1, len(files) // 5), 0))
            for i, file in enumerate(files):
                (test if i in for_test else train).append((file, label))
        contents = {file: read_plain(file) for file, _ in train + test}
        request.files[f"vlcs/{domain}"] = digest_of(
            {file.relative_to(folder).as_posix(): content for file, content in contents.items()}
        )
        return image_task(request, domain, _LABELS, _images(train, contents), _images(test, contents))

    return [task(name) for name in request.task_names]


def _images(files: list[tuple[Path, int]], contents: Mapping[Path, bytes]) -> Images:
    pool = torch.stack([read_image(contents[file], str(file), 32) for file, _ in files])
    return Images(pool, range(len(files)), [label for _, label in files], COLOUR)
