"""Image streams on real data: sizes, labels, orders, and a run from the command line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpcl.benchmarks import (
    FEMNIST,
    HeterogeneousCIFAR10,
    PartitionedCIFAR10,
    PartitionedMNIST,
    PermutedMNIST,
    RotatedMNIST,
    SplitCIFAR10,
    SplitMNIST,
)
from nlpcl.benchmarks._files.published import published_orders
from nlpcl.benchmarks.images._cifar import CIFAR10
from nlpcl.benchmarks.images._dealing import class_order
from nlpcl.benchmarks.images._mnist import MNIST
from nlpcl.benchmarks.images.partitions import dirichlet, stratified, uneven_parts
from nlpcl.benchmarks.images.split import permutation, rotation
from nlpcl.cli import main
from nlpcl.records.record import Record
from tests.helpers.images import read_set
from tests.helpers.messages import refused

MNIST_TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
FEMNIST_TRAIN = (764, 755, 756, 755, 757, 776, 776, 771, 785, 778)
FEMNIST_TEST = (85, 84, 85, 84, 85, 87, 87, 86, 88, 87)


@pytest.fixture(scope="session")
def image_root(data_root: Path) -> Path:
    """The real data, if the images are among them."""
    if not all((data_root / name).is_dir() for name in ("mnist", "femnist", "cifar10")):
        pytest.skip("real images absent: NLPCL_TEST_DATA needs mnist/, femnist/ and cifar10/")
    return data_root


def sizes(benchmark: Any, split: str) -> list[int]:
    return [len(experience.dataset) for experience in getattr(benchmark, f"{split}_stream")]


def test_split_mnist_has_mnists_classes_in_heads_of_two(image_root: Path) -> None:
    benchmark = SplitMNIST(root=image_root)
    train, valid = sizes(benchmark, "train"), sizes(benchmark, "valid")
    for k in range(5):
        both = MNIST_TRAIN[2 * k] + MNIST_TRAIN[2 * k + 1]
        assert (train[k], valid[k]) == (both - both // 10, both // 10)
        counts = Counter(benchmark.test_stream[k].dataset.targets)
        assert counts == {0: MNIST_TEST[2 * k], 1: MNIST_TEST[2 * k + 1]}
        for stream in (benchmark.train_stream, benchmark.valid_stream, benchmark.test_stream):
            assert stream[k].task_labels == [k] and stream[k].dataset[0][2] == k
            assert stream[k].classes_in_this_experience == [0, 1]
    assert benchmark.n_classes == [2] * 5 and benchmark.input_shape == (1, 28, 28)
    assert benchmark.task_names == ["0+1", "2+3", "4+5", "6+7", "8+9"]
    assert benchmark.train_stream[3].task_name == "6+7" and benchmark.modality == "image"
    assert len(benchmark.files) == 4


def test_mnist_is_normalised_with_its_own_constants(image_root: Path) -> None:
    data = read_set(MNIST, image_root)
    assert (len(data.train), len(data.test)) == (60000, 10000)
    pixels = data.train.pool.float() / 255  # type: ignore[union-attr]
    assert abs(float(pixels.mean()) - 0.1307) < 1e-4 and abs(float(pixels.std()) - 0.3081) < 1e-4
    torch.testing.assert_close(data.train[7][0], (pixels[7] - 0.1307) / 0.3081)


@pytest.mark.parametrize("order", [1, 7])
def test_orders_of_split_streams_are_avalanches_seeds(order: int, image_root: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(20, 1), torch.arange(20) % 10)
    data.targets = [int(y) for _, y in data]  # type: ignore[attr-defined]
    theirs = nc_benchmark(data, data, n_experiences=5, task_labels=True, seed=order)
    assert class_order(10, order) == theirs.classes_order
    ours = SplitMNIST(order=order, train_size=4, root=image_root)
    assert ours.task_names == ["+".join(map(str, theirs.classes_order[i : i + 2])) for i in range(0, 10, 2)]


def test_split_mnist_domain_incremental_asks_for_parity(image_root: Path) -> None:
    benchmark = SplitMNIST("dil", ["4+5", "0+1"], train_size=30, root=image_root)
    assert benchmark.task_names == ["4+5", "0+1"] and benchmark.n_classes == [2, 2]
    assert all(e.task_labels == [0] for e in benchmark.train_stream)
    assert benchmark.sizes[0]["labels"] == ["even", "odd"]
    with refused("--order 0"):
        SplitMNIST("dil", 3, root=image_root)
    with refused("SplitCIFAR10 domain-incremental"):
        SplitCIFAR10("dil", root=image_root)


@pytest.mark.parametrize("scenario", ["dil", "til"])
def test_permuted_and_rotated_share_images_and_labels(scenario: str, image_root: Path) -> None:
    for make in (PermutedMNIST, RotatedMNIST):
        benchmark = make(scenario, tasks=3, train_size=10, root=image_root)
        first, second = (benchmark.train_stream[k].dataset for k in (0, 1))
        assert list(first.targets) == list(second.targets)
        assert not torch.equal(first[0][0], second[0][0])
        assert benchmark.n_classes == [10] * 3
        assert benchmark.train_stream[2].task_labels == [2 if scenario == "til" else 0]


def test_changes_of_an_image() -> None:
    x = torch.rand(1, 28, 28)
    assert torch.equal(permutation(0)(x), x) and torch.equal(rotation(0)(x), x)
    shuffled = permutation(3)(x)
    assert torch.equal(shuffled.flatten().sort().values, x.flatten().sort().values)
    assert torch.equal(shuffled, permutation(3)(x)) and not torch.equal(shuffled, permutation(4)(x))
    torch.testing.assert_close(rotation(90)(x), x.rot90(1, (1, 2)), atol=1e-4, rtol=0)


def test_the_published_orders(image_root: Path) -> None:
    published = image_root.parent / "task_orders.json"
    if not published.is_file():
        pytest.skip("task_orders.json is not beside the data")
    rows = json.loads(published.read_text())
    for name in ("celeba", "femnist", "mnist", "fashionmnist", "cifar10", "cifar100"):
        assert published_orders(name) == rows[f"{name}_10"]
    for name in ("cifar10_20", "cifar100_20"):
        assert published_orders(name) == rows[name]
    assert published_orders("vlcs") == rows["vlcs_4"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=40, max_size=200), st.integers(1, 20))
def test_a_stratified_partition_has_every_example_once(targets: list[int], parts: int) -> None:
    dealt = stratified(targets, parts)
    assert sorted(row for part in dealt for row in part) == list(range(len(targets)))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    for label in set(targets):
        counts = [sum(targets[row] == label for row in part) for part in dealt]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=400, max_size=900), st.integers(2, 10))
def test_a_dirichlet_partition_has_every_example_once(targets: list[int], parts: int) -> None:
    dealt = dirichlet(targets, parts)
    assert sorted(row for part in dealt for row in part) == list(range(len(targets)))
    assert min(map(len, dealt)) >= 10


def test_partitions_of_mnist(image_root: Path) -> None:
    state = torch.get_rng_state()
    ten, twenty = (PartitionedMNIST(tasks=n, root=image_root) for n in (10, 20))
    assert sizes(ten, "train") == [5400] * 10 and sizes(twenty, "train") == [2700] * 20
    assert sizes(ten, "valid") == [600] * 10 and sizes(ten, "test") == [1000] * 10
    assert ten.task_names == published_orders("mnist")[0] and len(twenty.task_names) == 20
    assert ten.n_classes == [10] * 10 and all(e.task_labels == [0] for e in ten.train_stream)
    for experience in ten.test_stream:
        counts = Counter(experience.dataset.targets)
        assert all(abs(counts[c] - MNIST_TEST[c] / 10) < 1 for c in range(10))
    assert torch.equal(torch.get_rng_state(), state)
    with refused("--scenario dil"):
        PartitionedMNIST("til", root=image_root)


def test_cifar10_from_jpegs_in_a_zip_and_in_a_folder(image_root: Path, tmp_path: Path) -> None:
    import zipfile

    benchmark = SplitCIFAR10(root=image_root)
    assert (sizes(benchmark, "train"), sizes(benchmark, "valid")) == ([900] * 5, [100] * 5)
    assert sizes(benchmark, "test") == [200] * 5 and benchmark.input_shape == (3, 32, 32)
    assert benchmark.task_names[0] == "airplane+automobile"
    with zipfile.ZipFile(next((image_root / "cifar10").glob("*.zip"))) as archive:
        some = [name for name in archive.namelist() if name[-8:-5] == "000"]
        archive.extractall(tmp_path / "cifar10", some)
    part = read_set(CIFAR10, tmp_path)
    assert (len(part.train), len(part.test), len(part.classes)) == (100, 100, 10)
    whole = read_set(CIFAR10, image_root)
    assert torch.equal(part.train[0][0], whole.train[0][0])


def test_partitions_of_cifar10(image_root: Path) -> None:
    even = PartitionedCIFAR10(tasks=20, root=image_root)
    assert even.task_names == published_orders("cifar10_20")[0]
    assert sizes(even, "train") == [225] * 20 and sizes(even, "test") == [50] * 20
    uneven = HeterogeneousCIFAR10(root=image_root)
    parts = [sum(size[split] for split in ("train", "valid", "test")) for size in uneven.sizes]
    assert sum(parts) == 6000 and len(set(parts)) > 1
    found = uneven_parts(read_set(CIFAR10, image_root), 10)
    assert sorted(row for pair in found for images in pair for row in images.rows) == list(range(6000))
    shares = [Counter(train.targets).most_common(1)[0][1] / len(train) for train, _ in found]
    assert max(shares) > 0.2  # an even part has a tenth of each class
    named = PartitionedCIFAR10("dil", ["cifar10-15", "cifar10-3"], train_size=5, root=image_root)
    assert named.task_names == ["cifar10-15", "cifar10-3"] and sizes(named, "test") == [50, 50]


def test_femnist_sizes_are_the_published_ones(image_root: Path) -> None:
    benchmark = FEMNIST(root=image_root)
    assert benchmark.task_names == published_orders("femnist")[0]
    for k, name in enumerate(benchmark.task_names):
        writer = int(name[-1])
        held = FEMNIST_TRAIN[writer] // 10
        assert sizes(benchmark, "train")[k] == FEMNIST_TRAIN[writer] - held
        assert (sizes(benchmark, "valid")[k], sizes(benchmark, "test")[k]) == (held, FEMNIST_TEST[writer])
    assert benchmark.n_classes == [62] * 10 and len(benchmark.files) == 20
    shared = FEMNIST("dil", 3, tasks=2, train_size=40, root=image_root)
    assert sizes(shared, "train") == [40, 40] and shared.train_stream[1].task_labels == [0]
    with refused("--tasks 1 10"):
        FEMNIST(tasks=20, root=image_root)


@pytest.mark.parametrize("name", ["femnist", "splitmnist"])
def test_a_run_from_the_command_line(name: str, image_root: Path, tmp_path: Path, capsys: Any) -> None:
    argv = ["run", "--benchmark", name, "--strategy", "ncl", "--tasks", "2", "--train-size", "40", "--epochs", "1"]
    more = ["--set", "hidden=32", "--data-root", str(image_root), "--out", str(tmp_path), "--device", "cpu", "--json"]
    assert main([*argv, *more]) == 0
    answer = json.loads(capsys.readouterr().out)
    record = Record.load(answer["record"])
    assert record.spec["backbone"] == "cnn" and record.spec["model"] is None and record.data["encoder"] is None
    assert record.spec["max_length"] is None and record.spec["learning_rate"] == 1e-3
    again = ["run", "--from", answer["record"], "--data-root", str(image_root), "--out", str(tmp_path / "b"), "--json"]
    assert main([*again, "--device", "cpu"]) == 0
    repeated = Record.load(json.loads(capsys.readouterr().out)["record"])
    assert repeated.matrices == record.matrices and repeated.id == record.id
