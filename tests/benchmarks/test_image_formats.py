"""Image files of every format, written by the tests: read as they should be, and refused with a sentence."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nlpcl.benchmarks import (
    VLCS,
    CelebA,
    CORe50,
    PartitionedFashionMNIST,
    SplitCIFAR100,
    SplitFMNIST,
    SplitTinyImageNet,
)
from nlpcl.benchmarks._images import COLOUR
from nlpcl.benchmarks.images._cifar import CIFAR10, CIFAR100
from nlpcl.benchmarks.images._mnist import IDX_FILES, idx_array
from nlpcl.cli import main
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.registry import backbones as all_backbones
from nlpcl.registry import benchmarks, check_combination, strategies
from tests.helpers.images import read_set
from tests.helpers.messages import refused


def write_image(file: Path, value: int = 0, size: int = 32) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value % 256, 50, 100)).save(file)


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def train_two_tasks(name: str, root: Path, scenario: str = "til") -> None:
    """From the files to a record, through the command line."""
    command = ["run", "--benchmark", name, "--scenario", scenario, "--strategy", "ncl", "--set", "hidden=32"]
    size = ["--tasks", "2", "--train-size", "16", "--epochs", "1"]
    assert main([*command, *size, "--data-root", str(root), "--out", str(root / "runs")]) == 0
    assert len(list((root / "runs").glob("*/record.json"))) == 1


def fashion(root: Path) -> Path:
    rng = np.random.default_rng(0)
    (root / "fashion-mnist").mkdir(parents=True)
    arrays = (rng.integers(0, 256, (400, 28, 28)), np.arange(400) % 10)
    for i, name in enumerate(IDX_FILES):
        content = idx(arrays[i % 2][: 400 if i < 2 else 100])
        (root / "fashion-mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    return root


def test_fashion_mnist(tmp_path: Path) -> None:
    root = fashion(tmp_path)
    split = SplitFMNIST(root=root)
    assert split.task_names[0] == "T-shirt+trouser"
    assert [(s["train"], s["valid"], s["test"]) for s in split.sizes] == [(72, 8, 20)] * 5
    parts = PartitionedFashionMNIST(tasks=3, root=root)
    assert [(s["train"], s["valid"], s["test"]) for s in parts.sizes] == [(36, 4, 10)] * 3
    train_two_tasks("fashionmnist", root, "dil")
    packed = root / "fashion-mnist" / f"{IDX_FILES[0]}.gz"
    packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes())[:-1]))
    with refused(IDX_FILES[0]):
        SplitFMNIST(root=root)
    packed.unlink()
    with refused(IDX_FILES[0]):
        SplitFMNIST(root=root)


def test_idx_files() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    assert torch.equal(idx_array(idx(array), "x"), torch.from_numpy(array).to(torch.uint8))
    for bad in (b"", b"\0\0\x08", b"\0\0\x0d" + idx(array)[3:], idx(array) + b"1"):
        with refused("x idx"):
            idx_array(bad, "x")


def test_cifar_in_its_binary_version(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 256, (n, 3074), np.uint8) for name, n in (("train.bin", 400), ("test.bin", 200))}
    for table in rows.values():
        table[:, 1] = np.arange(len(table)) % 100  # fine label, after the coarse one
    members = {name: table.tobytes() for name, table in rows.items()}
    members["fine_label_names.txt"] = "\n".join(f"kind{i:02d}" for i in range(100)).encode() + b"\n\n"
    (tmp_path / "cifar100").mkdir()
    with tarfile.open(tmp_path / "cifar100" / "cifar-100-binary.tar.gz", "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    data = read_set(CIFAR100, tmp_path)
    assert data.train.targets[:3] == [0, 1, 2] and len(data.classes) == 100
    expected = torch.from_numpy(rows["train.bin"][5, 2:].reshape(3, 32, 32)) / 255
    torch.testing.assert_close(data.train[5][0], COLOUR(expected))
    benchmark = SplitCIFAR100(root=tmp_path)
    assert benchmark.n_classes == [10] * 10 and benchmark.task_names[0] == "kind00+9"
    assert [s["train"] + s["valid"] for s in benchmark.sizes] == [40] * 10
    train_two_tasks("splitcifar100", tmp_path, "cil")
    (tmp_path / "cifar100" / "cifar-100-binary.tar.gz").write_bytes(b"no archive")
    with refused("cifar-100-binary.tar.gz"):
        read_set(CIFAR100, tmp_path)
    with refused("cifar10"):
        read_set(CIFAR10, tmp_path)


def test_tiny_imagenet(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    kinds = [f"n{i:02d}" for i in range(20)]
    for i, kind in enumerate(kinds):
        for j in range(4):
            write_image(folder / "train" / kind / "images" / f"{kind}_{j}.JPEG", i, 64)
        write_image(folder / "val" / "images" / f"val_{i}.JPEG", i, 64)
    (folder / "wnids.txt").write_text("\n".join(kinds) + "\n")
    notes = "".join(f"val_{i}.JPEG\t{kind}\t0\t0\t1\t1\n" for i, kind in enumerate(kinds))
    (folder / "val" / "val_annotations.txt").write_text(notes)
    benchmark = SplitTinyImageNet(root=tmp_path)
    assert benchmark.input_shape == (3, 64, 64) and benchmark.n_classes == [2] * 10
    assert [(s["train"], s["valid"], s["test"]) for s in benchmark.sizes] == [(7, 1, 2)] * 10
    train_two_tasks("splittinyimagenet", tmp_path)
    with refused("--data-root"):
        SplitTinyImageNet(root=tmp_path / "tiny-imagenet-200")


def test_core50(tmp_path: Path) -> None:
    for session in range(1, 12):
        for thing in range(1, 51):
            name = f"C_{session:02d}_{thing:02d}_000.png"
            write_image(tmp_path / "core50_32x32" / f"s{session}" / f"o{thing}" / name, thing)
    til, dil = CORe50(root=tmp_path), CORe50("dil", root=tmp_path)
    assert til.n_classes == [10] + [5] * 8 and til.task_names[0] == "plug adapter 1+9"
    assert [s["train"] + s["valid"] for s in til.sizes] == [80] + [40] * 8
    assert [s["test"] for s in til.sizes] == [30] + [15] * 8
    assert dil.task_names == [f"session-{s}" for s in (1, 2, 4, 5, 6, 8, 9, 11)]
    assert dil.n_classes == [50] * 8 and [s["test"] for s in dil.sizes] == [150] * 8
    train_two_tasks("core50", tmp_path)
    with refused("core50_32x32"):
        CORe50(root=tmp_path / "core50_32x32")


def test_celeba_by_person(data_root: Path, tmp_path: Path) -> None:
    lists = data_root / "celeba" / "dat"
    if not lists.is_dir():
        pytest.skip("real lists absent: NLPCL_TEST_DATA needs celeba/dat")
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "dat").symlink_to(lists)
    with refused("img_align_celeba.zip"):
        CelebA(root=tmp_path)
    names = set()
    for file in lists.rglob("*.json"):
        content = json.loads(file.read_text())
        names |= {name for k in range(12) for name in content["user_data"][str(k)]["x"]}
    for i, name in enumerate(sorted(names)):
        write_image(tmp_path / "celeba" / "img_align_celeba" / name, i, 40)
    benchmark = CelebA(root=tmp_path)
    assert benchmark.task_names[:2] == ["celeba-1", "celeba-6"] and benchmark.n_classes == [2] * 10
    assert [benchmark.sizes[0][split] for split in ("train", "valid", "test")] == [87, 9, 11]
    assert benchmark.input_shape == (3, 32, 32)
    more = CelebA("dil", ["celeba-11", "celeba-2"], root=tmp_path)
    assert more.task_names == ["celeba-11", "celeba-2"] and more.n_classes == [2, 2]
    train_two_tasks("celeba", tmp_path, "dil")


def test_vlcs(tmp_path: Path) -> None:
    for domain in ("sun", "pascal", "labelme", "caltech"):
        for kind in benchmarks.get("vlcs").labels:
            for i in range(10):
                write_image(tmp_path / "vlcs" / domain / kind / f"{i}.jpg", 20 * i, 50)
    benchmark = VLCS(root=tmp_path)
    assert benchmark.task_names == ["sun", "pascal", "labelme", "caltech"] and benchmark.n_classes == [5] * 4
    assert [(s["train"], s["valid"], s["test"]) for s in benchmark.sizes] == [(36, 4, 10)] * 4
    assert all(e.task_labels == [0] for e in benchmark.train_stream)
    train_two_tasks("vlcs", tmp_path, "dil")
    assert VLCS("til", ["caltech", "sun"], root=tmp_path).task_names == ["caltech", "sun"]
    other = VLCS(seed=1, root=tmp_path)
    first, second = (b.test_stream[0].dataset for b in (benchmark, other))
    assert torch.equal(torch.stack([first[i][0] for i in range(10)]), torch.stack([second[i][0] for i in range(10)]))
    (tmp_path / "vlcs" / "sun" / "dog" / "3.jpg").write_bytes(b"no image")
    with refused("3.jpg"):
        VLCS(root=tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"backbone": "bert_adapter"},
            "femnist bert_adapter --backbone cnn",
        ),
        ({"benchmark": "asc", "backbone": "cnn"}, "asc cnn --backbone bert"),
        ({"strategy": "ctr"}, "ctr bert_adapter"),
        ({"model": "minilm"}, "--model femnist"),
        ({"max_length": 64}, "--max-length"),
        ({"benchmark": "cifar10", "scenario": "til"}, "cifar10 --scenario dil"),
        ({"benchmark": "SplitCIFAR10", "scenario": "dil"}, "SplitCIFAR10 --scenario til"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], words: str) -> None:
    with refused(words):
        resolve(RunSpec.parse({"benchmark": "femnist", "strategy": "ncl", **given}))


def test_a_strategy_for_text_alone_says_so() -> None:
    entries = strategies.get("ctr"), benchmarks.get("femnist"), all_backbones.get("bert_adapter")
    with refused("ctr femnist"):
        check_combination(*entries, "til")


@pytest.mark.parametrize("name", ["Split-MNIST", "permuted_mnist", "core50", "splittinyimagenet"])
def test_names_fold(name: str) -> None:
    assert benchmarks.get(name).modality == "image"
