"""Reading MNIST, FashionMNIST, CIFAR and Tiny ImageNet: from a data root, or downloaded. Nothing is unpickled.

Under a data root stand `mnist/` and `fashion-mnist/` with the four idx files (plain or gzipped), `cifar10/` and
`cifar100/` with the binary archive of their makers (the torchvision archive is pickled), or with JPEG or PNG files
`{train,test}/<class>/<name>` in a folder or a zip, and `tiny-imagenet-200/` as unpacked. What stands there is read
as it is, so that a part of a set will do; its SHA-256 goes into the record.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from nlpcl.benchmarks._files.download import data_bytes, data_root, own_files, read
from nlpcl.benchmarks._images import COLOUR, GREY, ImageFiles, Images, read_image
from nlpcl.errors import UsageError

SUFFIXES = {".jpg", ".jpeg", ".png"}
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
IDX_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
# SHA-256 of the gzipped files as published, in the order of IDX_FILES.
IDX_SOURCES = {
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
IDX_UNPACKED = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz"
CIFAR_HASHES = {
    "cifar10": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar100": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
}
CIFAR_NAMES = {"cifar10": "batches.meta.txt", "cifar100": "fine_label_names.txt"}

OWN_FILES = {
    **{
        folder: own_files(
            *(f"{folder}/{name}{packed}" for name in IDX_FILES for packed in ("", ".gz")),
            published=(*hashes, *IDX_UNPACKED),
        )
        for folder, (_, *hashes) in IDX_SOURCES.items()
    },
    **{
        name: own_files(f"{name}/*.gz", f"{name}/*.zip", f"{name}/t*/*/*", published=(digest,))
        for name, digest in CIFAR_HASHES.items()
    },
    "tiny-imagenet-200": own_files(
        *(f"tiny-imagenet-200/{part}" for part in ("wnids.txt", "val/*.txt", "val/images/*", "train/*/images/*"))
    ),
}
"""Values of `BenchmarkEntry.own_files`, by folder."""


@dataclass(frozen=True)
class ImageSet:
    """A data set of images, before it is cut into tasks.

    :param classes: names of the classes; a target is an index into them.
    :param files: path and SHA-256 of what was read.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    files: dict[str, str]


def idx_array(content: bytes, name: str) -> Tensor:
    """The array of unsigned bytes in an idx file, uncompressed.

    :param name: of the file, for the message.
    :raises UsageError: it is none, or cut short.
    """
    n_axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = tuple(int(n) for n in np.frombuffer(content[4 : 4 + 4 * n_axes], dtype=">u4"))
    values = np.frombuffer(content, dtype=np.uint8)[4 + 4 * n_axes :]
    if not n_axes or len(shape) != n_axes or math.prod(shape) != len(values):
        raise UsageError(f"{name} is no complete idx file of bytes; replace it by the original.")
    return torch.from_numpy(values.reshape(shape).copy())


def read_idx(folder: str, classes: tuple[str, ...], root: str | Path | None) -> ImageSet:
    """MNIST (`mnist`) or FashionMNIST (`fashion-mnist`).

    :raises UsageError: a file is missing, damaged or out of reach.
    """
    given = data_root(root)
    url, *hashes = IDX_SOURCES[folder]
    arrays, files = [], {}
    for name, digest in zip(IDX_FILES, hashes, strict=True):
        if given is not None:
            content = read(given / folder / name)
        else:
            content = gzip.decompress(data_bytes(folder, f"{name}.gz", digest, f"{url}/{name}.gz", None))
        files[f"{folder}/{name}"] = hashlib.sha256(content).hexdigest()
        arrays.append(idx_array(content, f"{folder}/{name}"))
    parts = []
    for images, labels in (arrays[:2], arrays[2:]):
        if images.dim() != 3 or len(images) != len(labels) or int(labels.max()) >= len(classes):
            raise UsageError(f"{folder}: images and labels do not belong together; replace the files by the originals.")
        parts.append(Images(images.unsqueeze(1), range(len(images)), labels.tolist(), GREY))
    return ImageSet(classes, parts[0], parts[1], files)


def read_cifar(name: str, root: str | Path | None) -> ImageSet:
    """CIFAR-10 (`cifar10`) or CIFAR-100 with its fine classes (`cifar100`).

    :raises UsageError: there is nothing to read, it is damaged or out of reach.
    """
    archive = f"cifar-{name.removeprefix('cifar')}-binary.tar.gz"
    given = data_root(root)
    if given is None:
        content = data_bytes(name, archive, CIFAR_HASHES[name], f"{CIFAR_SOURCE}/{archive}", None)
        return _cifar_archive(name, archive, content)
    folder = given / name
    if (folder / archive).is_file():
        return _cifar_archive(name, archive, (folder / archive).read_bytes())
    zips = sorted(folder.glob("*.zip"))
    if zips:
        return _class_folders(name, _zip_members(zips[0]))
    if (folder / "train").is_dir():
        members = {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.glob("t*/*/*"))}
        return _class_folders(name, members)
    raise UsageError(
        f"{folder} holds neither {archive} nor images {{train,test}}/<class>/<name>.jpg, in a folder or a zip; "
        "complete the data root, or leave --data-root out to download the data."
    )


def _cifar_archive(name: str, archive: str, content: bytes) -> ImageSet:
    """The binary version: per image its label bytes (CIFAR-100: coarse, fine), then 3 x 32 x 32 bytes."""
    n_labels = 1 if name == "cifar10" else 2
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            for member in tar:
                opened = tar.extractfile(member)
                if opened is not None:
                    found[PurePosixPath(member.name).name] = opened.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(
            f"{name}/{archive} is damaged ({type(error).__name__}); replace it by the original."
        ) from error
    classes = tuple(found.get(CIFAR_NAMES[name], b"").decode().split())
    parts = []
    for names in (
        sorted(f for f in found if f.startswith(("data_batch", "train.bin"))),
        ["test_batch.bin", "test.bin"],
    ):
        rows = np.frombuffer(b"".join(found.get(f, b"") for f in names), dtype=np.uint8)
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


def _class_folders(name: str, members: dict[str, bytes]) -> ImageSet:
    """Images at `{train,test}/<class>/<name>`, classes in alphabetical order."""
    images = {path: content for path, content in members.items() if PurePosixPath(path).suffix.lower() in SUFFIXES}
    parents = {path: PurePosixPath(path).parts[-3:-1] for path in images}
    classes = tuple(sorted({parts[-1] for parts in parents.values()}))
    parts = []
    for split in ("train", "test"):
        paths = [path for path in sorted(images) if parents[path][:1] == (split,)]
        if not paths:
            raise UsageError(f"{name}: there are no images {split}/<class>/<name>.jpg; complete the data root.")
        pool = torch.stack([read_image(io.BytesIO(images[path]), 32) for path in paths])
        parts.append(Images(pool, range(len(paths)), [classes.index(parents[path][1]) for path in paths], COLOUR))
    return ImageSet(classes, parts[0], parts[1], {f"{name}/images": digest_of(images)})


def digest_of(contents: dict[str, bytes]) -> str:
    """One SHA-256 over names and contents of many files."""
    whole = hashlib.sha256()
    for path in sorted(contents):
        whole.update(f"{path} {hashlib.sha256(contents[path]).hexdigest()}\n".encode())
    return whole.hexdigest()


def read_tiny_imagenet(root: str | Path | None) -> ImageSet:
    """Tiny ImageNet, 64 x 64; its validation images serve as test. Images stay on the disk.

    :raises UsageError: it is not under the data root: its makers state no SHA-256, so it is not downloaded.
    """
    given = data_root(root)
    folder = Path() if given is None else given / "tiny-imagenet-200"
    names, notes = folder / "wnids.txt", folder / "val" / "val_annotations.txt"
    if given is None or not names.is_file() or not notes.is_file():
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
