"""MNIST and FashionMNIST: four idx files each, plain or gzipped, from a data root or downloaded.

A data root may hold a part of a set: the SHA-256 of what was read goes into the record.
"""

from __future__ import annotations

import gzip
import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlpcl.benchmarks._files.download import data_bytes, own_files
from nlpcl.benchmarks._images import GREY, Images, ImageSet, ImageSource
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.errors import UsageError

IDX_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
# SHA-256 of the gzipped files as published, in the order of IDX_FILES.
_SOURCES = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion-mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
# SHA-256 of MNIST's files unpacked.
_UNPACKED = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)

# Training and test images of each digit.
_CLASS_SIZES = (
    *((5_923, 980), (6_742, 1_135), (5_958, 1_032), (6_131, 1_010), (5_842, 982)),
    *((5_421, 892), (5_918, 958), (6_265, 1_028), (5_851, 974), (5_949, 1_009)),
)


def idx_array(content: bytes, name: str) -> Tensor:
    """Return the array of unsigned bytes in an idx file, uncompressed.

    :param name: of the file, for the message.
    :raises UsageError: it is none, or cut short.
    """
    n_axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    sizes = content[4 : 4 + 4 * n_axes]
    shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], dtype=">u4"))
    values = np.frombuffer(content, dtype=np.uint8)[4 + 4 * n_axes :]
    if not n_axes or len(shape) != n_axes or math.prod(shape) != len(values):
        raise UsageError(f"{name} is no complete idx file of bytes; replace it by the original.")
    return torch.from_numpy(values.reshape(shape).copy())


def _read(folder: str, classes: tuple[str, ...], request: StreamRequest[Any]) -> ImageSet:
    url, *hashes = _SOURCES[folder]
    arrays = []
    for name, digest in zip(IDX_FILES, hashes, strict=True):
        path = f"{folder}/{name}"
        if request.folder() is not None:
            content = request.read(path)
        else:
            content = gzip.decompress(data_bytes(folder, f"{name}.gz", digest, f"{url}/{name}.gz", None))
            request.files[path] = hashlib.sha256(content).hexdigest()
        arrays.append(idx_array(content, path))
    parts = []
    for i in (0, 2):
        images, labels, name = arrays[i], arrays[i + 1], IDX_FILES[i]
        if images.shape[1:] != (28, 28) or not len(images):
            raise UsageError(f"{folder}/{name} holds no images of 28 x 28 pixels; replace it by the original.")
        if labels.dim() != 1 or len(images) != len(labels) or int(labels.max()) >= len(classes):
            raise UsageError(
                f"{folder}/{name} and the file of its labels do not belong together; replace them by the originals."
            )
        parts.append(Images(images.unsqueeze(1), range(len(images)), labels.tolist(), GREY))
    return ImageSet(classes, parts[0], parts[1])


def _source(
    folder: str,
    labels: tuple[str, ...],
    class_sizes: Sequence[tuple[int, int]],
    hashes: Sequence[str | None],
    **facts: Any,
) -> ImageSource:
    paths = (f"{folder}/{name}{packed}" for name in IDX_FILES for packed in ("", ".gz"))
    facts["own_files"] = own_files(*paths, published=(*_SOURCES[folder][1:], *_UNPACKED))
    facts["sizes"] = (54_000, 6_000, 10_000)  # where classes are dealt out evenly
    files = {f"{folder}/{name}": digest for name, digest in zip(IDX_FILES, hashes, strict=True)}
    return ImageSource({"labels": labels, **facts}, class_sizes, files, partial(_read, folder, labels))


MNIST = _source(
    "mnist",
    tuple("0123456789"),
    _CLASS_SIZES,
    _UNPACKED,
    source="ossci-datasets.s3.amazonaws.com/mnist",
    licence="CC BY-SA 3.0, as commonly stated",
    citation="LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 1998",
)
FASHION = _source(
    "fashion-mnist",
    ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    [(6_000, 1_000)] * 10,
    [None] * 4,
    source="GitHub zalandoresearch/fashion-mnist",
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf, arXiv:1708.07747",
)
