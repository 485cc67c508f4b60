"""Batches of like length: every example once, little padding."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from hypothesis import given
from hypothesis import strategies as st

from nlpcl.models import build_model
from nlpcl.strategies._batches import LengthGroupedBatches
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
        self.seen.append(strategy.dataloader.batch_sampler)

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
