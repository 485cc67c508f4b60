"""Damaged files of every registered stream: each is refused with one sentence that names the file."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlpcl.benchmarks._files.content import image_of, unpacked
from nlpcl.benchmarks._files.published import published_hashes, published_orders
from nlpcl.benchmarks.images._mnist import IDX_FILES
from nlpcl.benchmarks.text.newsgroups import TOPICS
from nlpcl.config.orders import MOST_TASKS, order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import benchmarks
from tests.helpers.messages import mentions, refused
from tests.helpers.own_data import ROWS, Blank, lines, write

Files = dict[str, bytes | str]


def picture(size: int = 32, form: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(out, form, **more)
    return out.getvalue()


def tar(members: Files, links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else content.encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def zipped(members: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def cifar_members(classes: int = 10, labels: int = 1) -> Files:
    rows = np.random.default_rng(0).integers(0, 256, (4 * classes, labels + 3072), np.uint8)
    rows[:, labels - 1] = np.arange(len(rows)) % classes
    fine = labels == 2
    return {
        "fine_label_names.txt" if fine else "batches.meta.txt": "\n".join(f"kind{i}" for i in range(classes)),
        "train.bin" if fine else "data_batch_1.bin": rows.tobytes(),
        "test.bin" if fine else "test_batch.bin": rows.tobytes(),
    }


def cifar10(others: Mapping[str, str] = MappingProxyType({})) -> Files:
    return {"cifar10/cifar-10-binary.tar.gz": tar({**cifar_members(), **others})}


def cifar100() -> Files:
    return {"cifar100/cifar-100-binary.tar.gz": tar(cifar_members(100, labels=2))}


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def mnist(folder: str = "mnist") -> Files:
    arrays = (np.zeros((200, 28, 28)), np.arange(200) % 10)
    return {f"{folder}/{name}": idx(arrays[i % 2]) for i, name in enumerate(IDX_FILES)}


def tiny_imagenet() -> Files:
    kinds = [f"n{i}" for i in range(10)]
    return {
        "tiny-imagenet-200/wnids.txt": "\n".join(kinds),
        "tiny-imagenet-200/val/val_annotations.txt": "".join(f"{k}.JPEG\t{k}\t0\n" for k in kinds),
        **{f"tiny-imagenet-200/val/images/{k}.JPEG": picture(64, "JPEG") for k in kinds},
        **{f"tiny-imagenet-200/train/{k}/images/{i}.JPEG": picture(64, "JPEG") for k in kinds for i in range(2)},
    }


def core50() -> Files:
    image = picture()
    return {f"core50_32x32/s{s}/o{o}/{i}.png": image for s in range(1, 12) for o in range(1, 51) for i in range(2)}


def vlcs() -> Files:
    kinds = benchmarks.get("vlcs").labels
    return {f"vlcs/sun/{kind}/{i}.jpg": picture(form="JPEG") for kind in kinds for i in range(3)}


def newsgroups() -> Files:
    rows = [json.dumps({"category": topic, "text": f"a: b\n\ngood {i}"}) for topic in TOPICS for i in range(10)]
    return dict.fromkeys(("20newsgroups/train.jsonl", "20newsgroups/test.jsonl"), "\n".join(rows))


def nli() -> Files:
    rows = ["premise\thypothesis\tlabel\tgenre"]
    rows += [f"good\tbad {i}\tneutral\t{genre}" for genre in published_orders("nli")[0] for i in range(10)]
    return dict.fromkeys(("nli/mnli_train.tsv", "nli/mnli_val.tsv"), "\n".join(rows))


def ssc() -> Files:
    return {f"ssc/{name}.txt": "".join(f"{i % 3} good {i}\n" for i in range(30)) for name in published_orders("ssc")[0]}


def published(stream: str) -> Callable[[], Files]:
    """Only the names of these files are made up: what differs from the published file is refused whatever it holds."""
    return lambda: dict.fromkeys((f"{stream}/{path}" for path in published_hashes(stream)), "{}")


def celeba() -> Files:
    return {**published("celeba")(), "celeba/img_align_celeba/1.jpg": picture()}


def folder() -> Files:
    return {f"a/{part}.csv": lines(ROWS) for part in ("train", "valid", "test")}


# A valid root of each stream, as small as may be, and the end of the name of a file in it that is damaged.
STREAMS: dict[str, tuple[Callable[[], Files], str]] = {
    **dict.fromkeys(("SplitCIFAR10", "cifar10", "cifar10hetero"), (cifar10, "-binary.tar.gz")),
    **dict.fromkeys(("SplitCIFAR100", "cifar100"), (cifar100, "-binary.tar.gz")),
    **dict.fromkeys(("SplitMNIST", "PermutedMNIST", "RotatedMNIST", "mnist"), (mnist, IDX_FILES[1])),
    **dict.fromkeys(("SplitFMNIST", "fashionmnist"), (lambda: mnist("fashion-mnist"), IDX_FILES[0])),
    "SplitTinyImageNet": (tiny_imagenet, "wnids.txt"),
    "CORe50": (core50, "s1/o1/0.png"),
    "vlcs": (vlcs, "sun/bird/0.jpg"),
    "celeba": (celeba, ".json"),
    "femnist": (published("femnist"), ".json"),
    "asc": (published("asc"), ".json"),
    "dsc": (published("dsc"), ".tsv"),
    "newsgroups": (newsgroups, "train.jsonl"),
    "nli": (nli, "mnli_train.tsv"),
    "ssc": (ssc, "bike.txt"),
    "folder": (folder, "a/train.csv"),
}
CHECKED = {"celeba", "femnist", "asc", "dsc"}
"""Streams whose files must be the published ones, which tests do not have."""


def load(name: str, root: Path) -> Any:
    entry = benchmarks.get(name)
    text: dict[str, Any] = {"tokenizer": Blank(), "max_length": 8} if entry.modality == "text" else {}
    tasks = {"vlcs": ["sun"], "cifar10hetero": 1}.get(name)
    stream = entry.target(entry.scenarios[0], 0, root=root, tasks=tasks, **text)
    for experience in stream.train_stream:  # images that stay on the disk are read here
        for i in range(len(experience.dataset)):
            _ = experience.dataset[i]
    return stream


def named(root: Path, end: str) -> Path:
    """The first file whose path has this end."""
    return next(file for file in sorted(root.rglob("*")) if file.is_file() and file.as_posix().endswith(end))


def cut(file: Path) -> None:
    """Text that is cut may be whole rows, so it is cut within the first."""
    content = file.read_bytes()
    file.write_bytes(content[: 3 if file.suffix in (".csv", ".tsv", ".jsonl", ".txt") else len(content) // 2 - 1])


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def of_folder(file: Path) -> None:
    file.unlink()
    (file / "inner").mkdir(parents=True)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(np.random.default_rng(1).bytes(999)),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
    "zip": lambda file: file.write_bytes(zipped({"a": "b"})),
    "pipe": pipe,
    "loop": loop,
    "folder": of_folder,
}


def test_every_stream_is_damaged_here() -> None:
    assert {entry.name for entry in benchmarks.entries()} == {*STREAMS, "demo"}


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in {"cifar10hetero", *CHECKED}])
def test_the_files_are_whole_before(name: str, tmp_path: Path) -> None:
    assert load(name, write(tmp_path, STREAMS[name][0]())).sizes


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STREAMS)
def test_a_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    make, end = STREAMS[name]
    root = write(tmp_path, make())
    file = named(root, end)
    if name not in CHECKED:
        DAMAGES[damage](file)
    else:
        for each in [each for each in root.rglob("*") if each.is_file() and each.name.endswith(end)]:
            DAMAGES[damage](each)
    with pytest.raises(UsageError) as caught:
        load(name, root)
    message = str(caught.value)
    assert end.rpartition("/")[2].lstrip("-") in message, message
    assert "0x" not in message, message


def png(width: int, height: int) -> bytes:
    """A picture whose header says another size than its data have."""
    content = bytearray(picture())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [b"", picture()[:-60], picture()[:20], png(0, 0), png(12_000, 12_000), png(40_000, 40_000), picture(form="GIF"),
     picture(form="JPEG")[:500], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"],
)  # fmt: skip
def test_an_image_that_cannot_be_read_is_named(content: bytes) -> None:
    with refused("x.zip train/a/0.png image"):
        image_of(content, "x.zip, train/a/0.png")


def test_a_member_of_an_archive_is_named() -> None:
    whole = zipped({"a/0.png": b"stored content"})
    assert unpacked(whole, "x.zip") == {"a/0.png": b"stored content"}
    encrypted = whole.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(
        b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"
    )
    for content in (encrypted, whole.replace(b"stored", b"broken")):
        with refused("x.zip a/0.png"):
            unpacked(content, "x.zip")
    with refused("x.tar.gz link"):
        unpacked(tar({"a": "b"}, links={"link": "a"}), "x.tar.gz")


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("SplitCIFAR10", cifar10({"batches.meta.txt": "a\nb"}), "label"),
        ("SplitCIFAR10", {"cifar10/x.zip": zipped({"0.png": picture()})}, "x.zip 0.png"),
        ("SplitCIFAR10", {f"cifar10/{part}/a\x1b/0.png": picture() for part in ("train", "test")}, "cifar10 class"),
        ("SplitCIFAR10", {f"cifar10/{part}/a/0.png": picture() for part in ("train", "test")}, "SplitCIFAR10 5"),
        ("PermutedMNIST", mnist() | {f"mnist/{IDX_FILES[0]}": idx(np.zeros((200, 27, 28)))}, f"mnist/{IDX_FILES[0]}"),
        ("mnist", mnist() | {f"mnist/{IDX_FILES[2]}": idx(np.zeros((0, 28, 28)))}, f"mnist/{IDX_FILES[2]}"),
        ("SplitMNIST", mnist() | {f"mnist/{IDX_FILES[1]}": b"\0\0\x08\1\0\0"}, f"mnist/{IDX_FILES[1]}"),
        ("SplitTinyImageNet", tiny_imagenet() | {"tiny-imagenet-200/wnids.txt": "../../n1"}, "wnids.txt"),
        ("SplitTinyImageNet", tiny_imagenet() | {"tiny-imagenet-200/wnids.txt": "n1\nn77"}, "n77"),
        ("SplitTinyImageNet", tiny_imagenet() | {"tiny-imagenet-200/val/val_annotations.txt": "\nn0"}, "line 2"),
        ("newsgroups", newsgroups() | {"20newsgroups/test.jsonl": '{"category": "sci.med"}'}, "test.jsonl line 1"),
        ("newsgroups", newsgroups() | {"20newsgroups/test.jsonl": "\n[1]"}, "test.jsonl line 2"),
        ("nli", nli() | {"nli/mnli_val.tsv": "premise\thypothesis\tlabel\tgenre\na\tb"}, "mnli_val.tsv line 2"),
        ("nli", nli() | {"nli/mnli_val.tsv": "premise\tsentence1\thypothesis\tlabel\tgenre\n"}, "mnli_val.tsv premise"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name: str, files: Files, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(name, write(tmp_path, files))
    assert mentions(str(caught.value), words), caught.value


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    root = write(tmp_path, vlcs())
    os.rename(root / "vlcs/sun/bird/0.jpg", os.fsencode(root) + b"/vlcs/sun/bird/\xff.jpg")
    assert load("vlcs", root).sizes[0]["train"]


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    assert load("vlcs", write(tmp_path, vlcs() | {"vlcs/sun/bird/._0.jpg": b"of a Mac"})).sizes


def test_more_tasks_than_a_record_holds_are_refused() -> None:
    names = [f"t{i}" for i in range(MOST_TASKS + 1)]
    with refused("1,001 1,000 --tasks"):
        order_tasks([names], 0, None)
    assert len(order_tasks([names], 0, MOST_TASKS)) == MOST_TASKS
