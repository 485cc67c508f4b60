"""Tiny files of published streams in the layouts that a data root may have."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nlpcl.benchmarks._files.published import published_orders
from nlpcl.benchmarks.images._mnist import IDX_FILES
from nlpcl.registry import benchmarks
from tests.helpers.own_data import write
from tests.helpers.text_tasks import make_tasks


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An array of bytes as MNIST's makers store it."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def image(value: int = 0, size: int = 32, kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value % 256, 50, 100)).save(file, kind)
    return file.getvalue()


OF_TASKS = (
    ("train.csv", "valid.tsv", "test.jsonl"),
    ("train.jsonl", "valid.json", "test.parquet"),
    ("train.csv.gz", "test.csv"),
)


def own_data(root: Path) -> None:
    """Three tasks of your own in every format that is read."""
    for task, files in zip(make_tasks((2, 2, 2), n=16), OF_TASKS, strict=True):
        (root / task.name).mkdir(parents=True)
        for file in files:
            frame, path = getattr(task, file.partition(".")[0]), root / task.name / file
            if file.endswith(".parquet"):
                frame.to_parquet(path)
            elif ".json" in file:
                frame.to_json(path, orient="records", lines=file.endswith("l"))
            else:
                frame.to_csv(path, index=False, sep="\t" if ".tsv" in file else ",")


def newsgroups(root: Path) -> None:
    topics = benchmarks.get("newsgroups").labels
    rows = [{"category": topic, "text": f"From: me\n\ngood cat {i}"} for topic in topics for i in range(10)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write(root, {"20newsgroups/train.jsonl": lines, "20newsgroups/test.jsonl.gz": gzip.compress(lines)})


def nli(root: Path) -> None:
    labels = ("neutral", "entailment", "contradiction")
    genres = ("telephone", "slate", "travel", "fiction", "government")
    rows = [f"good cat {i}\tbad dog\t{labels[i % 3]}\t{genre}\n" for genre in genres for i in range(12)]
    content = "".join(["premise\thypothesis\tlabel\tgenre\n", *rows])
    write(root, {"nli/mnli_train.tsv": content, "nli/mnli_val.tsv.gz": gzip.compress(content.encode())})


def ssc(root: Path) -> None:
    content = "".join(f"{i % 3} good cat {i}\n" for i in range(30))
    write(root, {f"ssc/{domain}.txt": content for domain in published_orders("ssc")[0]})


def mnist(root: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (100, 28, 28)), np.arange(100) % 10
    packed = [idx(array) for array in (images, labels, images, labels)]
    write(root, {f"mnist/{name}": content for name, content in zip(IDX_FILES[:3], packed[:3], strict=True)})
    write(root, {f"mnist/{IDX_FILES[3]}.gz": gzip.compress(packed[3])})


def cifar_members(folder: Path) -> None:
    """What its makers' archive of CIFAR-10 holds."""
    table = np.random.default_rng(0).integers(0, 256, (40, 3073), np.uint8)
    table[:, 0] = np.arange(40) % 10
    names = "".join(f"kind{i}\n" for i in range(10))
    write(folder, {"batches.meta.txt": names, "data_batch_1.bin": table.tobytes(), "test_batch.bin": table.tobytes()})


def cifar_tar(members: Path, root: Path) -> None:
    """Pack whatever lies in a folder as its makers did."""
    (root / "cifar10").mkdir(parents=True)
    with tarfile.open(root / "cifar10" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(members, "cifar-10-batches-bin")


def cifar_images(folder: Path) -> None:
    """CIFAR-10 as images in folders."""
    places = [(split, kind, i) for split in ("train", "test") for kind in range(10) for i in range(4)]
    write(folder, {f"{split}/kind{kind}/{i}.png": image(20 * kind + i) for split, kind, i in places})


def cifar_folder(root: Path) -> None:
    cifar_images(root / "cifar10")


def cifar_zip(images: Path, root: Path) -> None:
    """Pack the files below a folder."""
    (root / "cifar10").mkdir(parents=True)
    with zipfile.ZipFile(root / "cifar10" / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in images.rglob("*") if path.is_file()):
            name = file.relative_to(images).as_posix().encode("utf-8", "surrogateescape").decode("latin-1")
            archive.writestr(name, file.read_bytes())


def vlcs(root: Path) -> None:
    domains, kinds = ("sun", "pascal", "labelme", "caltech"), benchmarks.get("vlcs").labels
    write(root, {f"vlcs/{d}/{k}/{i}.jpg": image(20 * i, kind="JPEG") for d in domains for k in kinds for i in range(4)})
