"""CIFAR-10 and CIFAR-100, from a data root or downloaded.

torchvision unpickles both, and pickled files can run programs, so the binary archive of their makers is read instead;
members are read where they are, and nothing is written. A data root may also hold JPEG or PNG files
`{train,test}/<class>/<name>` in a folder or a zip, and a part of a set: the SHA-256 of what was read goes into the
record.
"""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from nlpcl.benchmarks._files.content import text_of, unpacked
from nlpcl.benchmarks._files.download import data_bytes, own_files
from nlpcl.benchmarks._images import (
    COLOUR,
    Images,
    ImageSet,
    ImageSource,
    check_classes,
    digest_of,
    is_image,
    read_image,
)
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.config.files import read_plain
from nlpcl.errors import UsageError


def _archive(name: str) -> str:
    return f"cifar-{name.removeprefix('cifar')}-binary.tar.gz"


def _read(name: str, sha256: str, names: str, request: StreamRequest[Any]) -> ImageSet:
    archive = _archive(name)
    path, root = f"{name}/{archive}", request.folder()
    if root is None:
        content = data_bytes(name, archive, sha256, f"https://www.cs.toronto.edu/~kriz/{archive}", None)
        request.files[path] = sha256
        return _from_archive(path, content, names)
    if (root / path).is_file():
        return _from_archive(path, request.read(path), names)
    folder = root / name
    for file in sorted(folder.glob("*.zip")):
        return _from_class_folders(request, name, unpacked(read_plain(file), str(file)), str(file))
    if (folder / "train").is_dir():
        files = [file for part in ("train", "test") for file in folder.glob(f"{part}/*/*") if is_image(file)]
        members = {file.relative_to(folder).as_posix(): read_plain(file) for file in files}
        return _from_class_folders(request, name, members, str(folder))
    raise UsageError(
        f"{folder} holds neither {archive} nor images {{train,test}}/<class>/<name>.jpg, in a folder or a zip; "
        "complete the data root, or leave --data-root out to download the data."
    )


def _from_archive(path: str, content: bytes, names: str) -> ImageSet:
    """Read the binary version: per image its label bytes (CIFAR-100: coarse, fine), then 3 x 32 x 32 bytes."""
    members = {PurePosixPath(name).name: member for name, member in unpacked(content, path).items()}
    classes = tuple(text_of(members.get(names, b""), f"{path}, {names}").split())
    check_classes(classes, f"{path}, {names}")
    n_labels = 2 if names.startswith("fine") else 1
    parts = []
    for prefixes in (("data_batch", "train.bin"), ("test_batch.bin", "test.bin")):
        files = sorted(name for name in members if name.startswith(prefixes))
        rows = np.frombuffer(b"".join(members[file] for file in files), dtype=np.uint8)
        if not classes or not len(rows) or len(rows) % (n_labels + 3072):
            raise UsageError(f"{path} is not the binary version of the set; replace it by the original.")
        table = torch.from_numpy(rows.reshape(-1, n_labels + 3072).copy())
        images, labels = table[:, n_labels:].reshape(-1, 3, 32, 32), table[:, n_labels - 1]
        if (largest := int(labels.max())) >= len(classes):
            raise UsageError(
                f"{path}: a label is {largest}, and {names} names {len(classes)} classes; replace it by the original."
            )
        parts.append(Images(images, range(len(images)), labels.tolist(), COLOUR))
    return ImageSet(classes, parts[0], parts[1])


def _from_class_folders(request: StreamRequest[Any], name: str, members: dict[str, bytes], place: str) -> ImageSet:
    """Read images at `{train,test}/<class>/<name>`, classes in alphabetical order."""
    images = {path: members[path] for path in members if is_image(PurePosixPath(path))}
    parents = {path: PurePosixPath(path).parts[-3:-1] for path in images}
    for path, folders in parents.items():
        if len(folders) < 2 or folders[0] not in ("train", "test"):
            raise UsageError(f"{place}, {path}: an image must stand at {{train,test}}/<class>/<name>.jpg.")
    classes = tuple(sorted({names[-1] for names in parents.values()}))
    check_classes(classes, place)
    parts = []
    for split in ("train", "test"):
        paths = [path for path in sorted(images) if parents[path][:1] == (split,)]
        if not paths:
            raise UsageError(f"{name}: there are no images {split}/<class>/<name>.jpg; complete the data root.")
        pool = torch.stack([read_image(images[path], f"{place}, {path}", 32) for path in paths])
        parts.append(Images(pool, range(len(paths)), [classes.index(parents[path][1]) for path in paths], COLOUR))
    request.files[f"{name}/images"] = digest_of(images)
    return ImageSet(classes, parts[0], parts[1])


def _source(name: str, sha256: str, names: str) -> ImageSource:
    """Return a set by its name, the SHA-256 of its archive, and the file there that names the classes."""
    facts = {
        "source": "www.cs.toronto.edu/~kriz/cifar.html, binary version",
        "licence": "none stated",
        "citation": "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        "sizes": (45_000, 5_000, 10_000),
        "own_files": own_files(f"{name}/*.gz", f"{name}/*.zip", f"{name}/t*/*/*", published=(sha256,)),
    }
    classes = 100 if names.startswith("fine") else 10
    class_sizes = [(50_000 // classes, 10_000 // classes)] * classes
    archive = f"{name}/{_archive(name)}"
    return ImageSource(facts, class_sizes, {archive: sha256}, partial(_read, name, sha256, names))


CIFAR10 = _source("cifar10", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", "batches.meta.txt")
CIFAR100 = _source(
    "cifar100", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec", "fine_label_names.txt"
)
"""CIFAR-100 with its fine classes."""
