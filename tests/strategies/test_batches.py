"""Batches of like length: every example once, little padding."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset, TransformGroups
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.core import SupervisedPlugin
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nlpcl.models import build_model
from nlpcl.strategies._batches import LengthGroupedBatches, WholeBatches, batch_rows, loader_of, numbered_batches
from nlpcl.strategies.ncl import NCL


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 40), st.booleans())
def test_every_example_comes_once(lengths: list[int], size: int, shuffle: bool) -> None:
    sampler = LengthGroupedBatches(lengths, size, shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(0 < len(batch) <= size for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def test_groups_lengths_and_still_shuffles() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(5, 100, (640,)).tolist()
    sampler = LengthGroupedBatches(lengths, 16, shuffle=True)
    first, second = list(sampler), list(sampler)
    assert first != second
    plain = [batch.tolist() for batch in torch.randperm(640).split(16)]
    assert padded(lengths, first) < 0.7 * padded(lengths, plain)
    firsts = [lengths[batch[0]] for batch in first]
    assert firsts != sorted(firsts, reverse=True)


def test_sorted_longest_first_without_shuffling() -> None:
    assert list(LengthGroupedBatches([3, 9, 1, 9], 2, shuffle=False)) == [[1, 3], [0, 2]]


class Samplers(SupervisedPlugin[Any]):
    """Notes the sampler of every iteration's loader."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(strategy.dataloader.batches)

    before_eval_iteration = before_training_iteration


def test_strategies_use_them_on_text(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    model = build_model(benchmark, encoder=tiny, adapter_size=4)
    optimizer, samplers = torch.optim.SGD(model.parameters(), lr=0.1), Samplers()
    strategy = NCL(model=model, optimizer=optimizer, train_mb_size=8, eval_mb_size=8, plugins=[samplers])
    strategy.train(list(benchmark.train_stream), eval_streams=[])  # concatenated data keep their lengths
    strategy.eval(benchmark.test_stream)
    assert all(isinstance(sampler, LengthGroupedBatches) for sampler in samplers.seen)
    assert {sampler.shuffle for sampler in samplers.seen} == {True, False}
    dataset = benchmark.test_stream[0].dataset
    assert [int(dataset[i][0][1].sum()) for i in range(len(dataset))] == list(dataset.lengths)


def collated(data: Any, batches: list[list[int]]) -> list[list[torch.Tensor]]:
    return list(DataLoader(data, batch_sampler=batches))


def equal(left: Any, right: Any) -> bool:
    return all(
        len(a) == len(b) and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))
        for a, b in zip(left, right, strict=True)
    )


def test_whole_batches_are_what_a_loader_collates(benchmark_of: Any) -> None:
    first, second = (experience.dataset for experience in benchmark_of().train_stream)
    joined = first.concat(second).subset([5, 2, len(first) + 1, 0, len(first) + 3, 7, 1])
    features = [torch.randn(2, 3) for _ in range(len(joined))]
    more = joined.update_data_attribute("previous", DataAttribute(features, "previous", use_in_getitem=True))
    for data in (first, second.train(), joined, joined.concat(first).eval(), more):
        batches = torch.randperm(len(data)).split(3)
        rows = [batch.tolist() for batch in batches]
        loader = loader_of(data, rows)
        assert isinstance(loader, WholeBatches) and len(loader) == len(rows)
        assert equal(loader, collated(data, rows))


def test_examples_made_one_by_one_come_from_a_loader(benchmark_of: Any) -> None:
    data = benchmark_of().train_stream[0].dataset
    group = TransformGroups({"train": lambda x: x + 1, "eval": None})
    changed = AvalancheDataset([data], transform_groups=group)
    loader = loader_of(changed, [[0, 1], [2]])
    assert isinstance(loader, DataLoader)
    assert torch.equal(next(iter(loader))[0], torch.stack([data[0][0], data[1][0]]) + 1)
    assert isinstance(loader_of(data, [[0]], workers=1), DataLoader)


def test_the_order_of_batches_follows_from_the_seed_alone(benchmark_of: Any) -> None:
    data = benchmark_of().train_stream[0].dataset
    plain = data.subset(range(10))
    plain._data_attributes.pop("lengths")
    for of in (data, plain):
        orders = []
        for _ in range(2):
            torch.manual_seed(3)
            orders.append(list(batch_rows(of, 4, shuffle=True)))
        assert orders[0] == orders[1] != sorted(orders[0])
        assert sorted(i for batch in orders[0] for i in batch) == list(range(len(of)))


def test_numbered_batches_say_which_examples_they_hold(benchmark_of: Any) -> None:
    data = benchmark_of().train_stream[0].dataset
    seen = []
    for rows, (x, y, *_) in numbered_batches(data, 7):
        seen += rows
        assert equal([[x[i], y[i]] for i in range(len(rows))], [[data[r][0], torch.tensor(data[r][1])] for r in rows])
    assert sorted(seen) == list(range(len(data)))
