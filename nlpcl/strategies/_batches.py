"""Batches of texts of like length: a batch is as long as its longest text, so mixing lengths computes padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

POOL = 8


class LengthGroupedBatches(Sampler[list[int]]):
    """Indices of batches whose examples are of like length.

    With `shuffle` a random order is cut into pools of 8 batches, each pool is sorted by length and cut into
    batches, and all batches come in random order; every example comes once an epoch. Without, batches are cut from
    all examples sorted by length, the longest first, so that what does not fit in memory shows at once.

    :param lengths: real tokens of each example.
    :param batch_size: examples in a batch; the last one may be smaller.
    :param shuffle: random batches, from torch's default generator.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, shuffle: bool) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if not self.shuffle:
            return iter(self._sorted(torch.arange(len(self.lengths))))
        pools = torch.randperm(len(self.lengths)).split(POOL * self.batch_size)
        batches = [batch for pool in pools for batch in self._sorted(pool)]
        return iter([batches[i] for i in torch.randperm(len(batches)).tolist()])

    def _sorted(self, pool: torch.Tensor) -> list[list[int]]:
        pool = pool[self.lengths[pool].argsort(descending=True, stable=True)]
        return [batch.tolist() for batch in pool.split(self.batch_size)]
