"""CIFAR-10 and CIFAR-100, from a data root or downloaded.

torchvision unpickles both, and pickled files can run programs, so the binary archive of their makers is read instead;
members are read where they are, and nothing is written. A data root may also hold JPEG or PNG files
`{train,test}/<class>/<name>` in a folder or a zip, and a part of a set: the SHA-256 of what was read goes into the
record.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from nlpcl.benchmarks._files.download import data_bytes, own_files
from nlpcl.benchmarks._images import COLOUR, IMAGE_SUFFIXES, Images, ImageSet, digest_of, read_image
from nlpcl.errors import UsageError

_URL = "https://www.cs.toronto.edu/~kriz"
_SHA256 = {
    "cifar10": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar100": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
}
_NAMES = {"cifar10": "batches.meta.txt", "cifar100": "fine_label_names.txt"}


def _facts(folder: str) -> dict[str, Any]:
    return {
        "source": "www.cs.toronto.edu/~kriz/cifar.html, binary version",
        "licence": "none stated",
        "citation": "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        "own_files": own_files(f"{folder}/*.gz", f"{folder}/*.zip", f"{folder}/t*/*/*", published=(_SHA256[folder],)),
    }


CIFAR10, CIFAR100 = _facts("cifar10"), _facts("cifar100")
"""Registry facts that the streams of both sets share."""
SIZES_OF_CIFAR = (45_000, 5_000, 10_000)
"""Training, validation and test examples of either set."""


def read_cifar10(root: Path | None) -> ImageSet:
    """Return CIFAR-10.

    :raises UsageError: there is nothing to read, it is damaged or out of reach.
    """
    return _read("cifar10", root)


def read_cifar100(root: Path | None) -> ImageSet:
    """Return CIFAR-100 with its fine classes.

    :raises UsageError: there is nothing to read, it is damaged or out of reach.
    """
    return _read("cifar100", root)


def _read(name: str, root: Path | None) -> ImageSet:
    archive = f"cifar-{name.removeprefix('cifar')}-binary.tar.gz"
    if root is None:
        return _from_archive(name, archive, data_bytes(name, archive, _SHA256[name], f"{_URL}/{archive}", None))
    folder = root / name
    if (folder / archive).is_file():
        return _from_archive(name, archive, (folder / archive).read_bytes())
    zips = sorted(folder.glob("*.zip"))
    if zips:
        return _from_class_folders(name, _zip_members(zips[0]))
    if (folder / "train").is_dir():
        members = {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.glob("t*/*/*"))}
        return _from_class_folders(name, members)
    raise UsageError(
        f"{folder} holds neither {archive} nor images {{train,test}}/<class>/<name>.jpg, in a folder or a zip; "
        "complete the data root, or leave --data-root out to download the data."
    )


def _from_archive(name: str, archive: str, content: bytes) -> ImageSet:
    """Read the binary version: per image its label bytes (CIFAR-100: coarse, fine), then 3 x 32 x 32 bytes."""
    n_labels = 1 if name == "cifar10" else 2
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            for member in tar:
                opened = tar.extractfile(member)
                if opened is not None:
                    members[PurePosixPath(member.name).name] = opened.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(
            f"{name}/{archive} is damaged ({type(error).__name__}); replace it by the original."
        ) from error
    classes = tuple(members.get(_NAMES[name], b"").decode().split())
    parts = []
    for files in (
        sorted(member for member in members if member.startswith(("data_batch", "train.bin"))),
        ["test_batch.bin", "test.bin"],
    ):
        rows = np.frombuffer(b"".join(members.get(file, b"") for file in files), dtype=np.uint8)
        if not classes or not len(rows) or len(rows) % (n_labels + 3072):
            raise UsageError(f"{name}/{archive} is not the binary version of the set; replace it by the original.")
        table = torch.from_numpy(rows.reshape(-1, n_labels + 3072).copy())
        images = table[:, n_labels:].reshape(-1, 3, 32, 32)
        parts.append(Images(images, range(len(images)), table[:, n_labels - 1].tolist(), COLOUR))
    return ImageSet(classes, parts[0], parts[1], {f"{name}/{archive}": hashlib.sha256(content).hexdigest()})


def _zip_members(file: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")}
    except zipfile.BadZipFile as error:
        raise UsageError(f"{file} is damaged; replace it by the original.") from error


def _from_class_folders(name: str, members: dict[str, bytes]) -> ImageSet:
    """Read images at `{train,test}/<class>/<name>`, classes in alphabetical order."""
    images = {path: members[path] for path in members if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES}
    parents = {path: PurePosixPath(path).parts[-3:-1] for path in images}
    classes = tuple(sorted({names[-1] for names in parents.values()}))
    parts = []
    for split in ("train", "test"):
        paths = [path for path in sorted(images) if parents[path][:1] == (split,)]
        if not paths:
            raise UsageError(f"{name}: there are no images {split}/<class>/<name>.jpg; complete the data root.")
        pool = torch.stack([read_image(io.BytesIO(images[path]), 32) for path in paths])
        parts.append(Images(pool, range(len(paths)), [classes.index(parents[path][1]) for path in paths], COLOUR))
    return ImageSet(classes, parts[0], parts[1], {f"{name}/images": digest_of(images)})
