"""Batches of like length: every example once, little padding."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks.utils import AvalancheDataset, TransformGroups
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.core import SupervisedPlugin
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nlpcl.benchmarks import ASC
from nlpcl.models import build_model
from nlpcl.strategies.ncl import NCL
from nlpcl.training.batches import LengthGroupedBatches, WholeBatches, batch_rows, loader_of, numbered_batches


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 40), st.booleans())
def test_every_example_comes_once(lengths: list[int], size: int, shuffle: bool) -> None:
    sampler = LengthGroupedBatches(lengths, size, shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(0 < len(batch) <= size for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 40), st.integers(1, 4), st.integers(0, 99)
)
def test_shares_have_every_example_once(lengths: list[int], size: int, processes: int, seed: int) -> None:
    """The processes draw the same order, each takes its part of it, and some may have none."""
    rows: list[int] = []
    for process in range(processes):
        torch.manual_seed(seed)
        sampler = LengthGroupedBatches(lengths, size, True, (process, processes))
        batches = list(sampler)
        assert len(batches) == len(sampler)
        rows += [i for batch in batches for i in batch]
    assert sorted(rows) == list(range(len(lengths)))


@pytest.mark.parametrize(("examples", "most"), [(640, 0.85), (80_000, 0.65)])
def test_groups_lengths_and_still_shuffles(examples: int, most: float) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(5, 100, (examples,)).tolist()
    sampler = LengthGroupedBatches(lengths, 16, shuffle=True)
    first, second = list(sampler), list(sampler)
    assert first != second
    plain = [batch.tolist() for batch in torch.randperm(examples).split(16)]
    assert padded(lengths, first) < most * padded(lengths, plain)
    firsts = [lengths[batch[0]] for batch in first]
    assert firsts != sorted(firsts, reverse=True)


def chance_to_meet_again(sampler: LengthGroupedBatches, epochs: int) -> float:
    """Of the pairs of examples in one batch the share that is in one batch in the next epoch, too."""
    met, pairs = 0, 0
    before: set[frozenset[int]] = set()
    for epoch in range(epochs):
        now = {frozenset(pair) for batch in sampler for pair in combinations(batch, 2)}
        if epoch > 0:
            met, pairs = met + len(now & before), pairs + len(before)
        before = now
    return met / pairs


def random_chance(examples: int, size: int) -> float:
    """The same for random batches: how many of all pairs of examples are in one batch."""
    sizes = [len(batch) for batch in torch.arange(examples).split(size)]
    return sum(n * (n - 1) for n in sizes) / (examples * (examples - 1))


def word_lengths(n: int) -> list[int]:
    """Lengths with a long tail, like those of sentences."""
    drawn = torch.distributions.LogNormal(3.2, 0.45).sample(torch.Size([n]))
    return drawn.clamp(6, 128).int().tolist()


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("examples", [50, 120, 228, 256, 400, 677, 1000, 3400, 5000])
def test_texts_meet_again_at_most_twice_as_often_as_by_chance(examples: int, size: int) -> None:
    torch.manual_seed(0)
    sampler = LengthGroupedBatches(word_lengths(examples), size, shuffle=True)
    found = chance_to_meet_again(sampler, epochs=3 if examples > 1000 else 10)
    assert found <= 2 * random_chance(examples, size)


@pytest.mark.parametrize("size", [16, 32])
def test_texts_of_asc_meet_again_at_most_twice_as_often_as_by_chance(size: int, data_root: Path) -> None:
    torch.manual_seed(0)
    benchmark = ASC(root=data_root)
    for name, experience in zip(benchmark.task_names, benchmark.train_stream, strict=True):
        lengths = list(experience.dataset.lengths)
        sampler = LengthGroupedBatches(lengths, size, shuffle=True)
        found = chance_to_meet_again(sampler, epochs=3 if len(lengths) > 1000 else 10)
        assert found <= 2 * random_chance(len(lengths), size), name


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
