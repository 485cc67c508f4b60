"""How training data become mini-batches.

Texts come in batches of like length: a batch is as long as its longest text, so mixing lengths computes padding. What
lies in memory is cut by tensor indexing; only what is read or changed example by example passes torch's `DataLoader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from avalanche.benchmarks.utils import AvalancheDataset, ConstantSequence, DataAttribute
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nlpcl.training.internals import attributes_of, concatenation, flat_data
from nlpcl.training.plugin import TaskData

LARGEST_POOL = 50


def pool_batches(examples: int, batch_size: int) -> int:
    """Return how many batches of random texts are sorted by length together, from 1 to 50.

    With pools of k batches two texts of one batch meet again in the next epoch nearly k times as often as in random
    batches. So there are 2 at most, and 1 where fewer than 4 pools would be left, until k = N / (128 B) is more: from
    there on texts meet again in less than one epoch of a hundred. docs/performance.md has the figures.

    :param examples: N.
    :param batch_size: B.
    """
    few = min(2, max(1, examples // (4 * batch_size)))
    return min(LARGEST_POOL, max(few, examples // (128 * batch_size)))


class LengthGroupedBatches(Sampler[list[int]]):
    """Indices of batches whose examples are of like length.

    With `shuffle` a random order is cut into pools of `pool_batches`, each pool is sorted by length and cut into
    batches, and all batches come in random order; every example comes once an epoch. Without, batches are cut from
    all examples sorted by length, the longest first, so that what does not fit in memory shows at once.

    :param lengths: number of real tokens of each example; equal if these are no texts.
    :param batch_size: examples in a batch; the last batch may be smaller.
    :param shuffle: random batches, from torch's default generator; all of an epoch's order is drawn at once.
    :param shard: (r, N): only the examples at r, r + N, ... of their order, maybe none.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, shuffle: bool, shard: tuple[int, int] = (0, 1)) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.shard = shard

    def __len__(self) -> int:
        return -(-len(range(self.shard[0], len(self.lengths), self.shard[1])) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        first, step = self.shard
        n = len(self.lengths)
        rows = (torch.randperm(n) if self.shuffle else self.lengths.argsort(descending=True, stable=True))[first::step]
        pool_size = pool_batches(len(rows), self.batch_size) * self.batch_size if self.shuffle else max(len(rows), 1)
        batches = []
        for pool in rows.split(pool_size) if len(rows) else ():
            pool = pool[self.lengths[pool].argsort(descending=True, stable=True)]
            batches += [batch.tolist() for batch in pool.split(self.batch_size)]
        return iter([batches[i] for i in torch.randperm(len(batches)).tolist()] if self.shuffle else batches)


class WholeBatches:
    """The mini-batches that a `DataLoader` would give, made by tensor indexing.

    :param data: an Avalanche dataset of parts that have `gather(rows) -> (x, y)`, in any concatenation and choice, and
        without transformations.
    :param batches: lists of indices.
    :raises TypeError: `data` is not of that kind.
    """

    def __init__(self, data: Any, batches: LengthGroupedBatches | Sequence[list[int]]) -> None:
        if not isinstance(data, AvalancheDataset):
            raise TypeError(f"a {type(data).__name__} is no Avalanche dataset")
        self.batches = batches
        self.parts: list[Any] = []
        self.part_of = torch.empty(len(data), dtype=torch.long)
        self.row_of = torch.empty(len(data), dtype=torch.long)
        self._locate(flat_data(data), torch.arange(len(data)), torch.arange(len(data)))
        self.attributes = [_column(a) for a in attributes_of(data).values() if a.use_in_getitem]

    def _locate(self, data: Any, rows: Tensor, positions: Tensor) -> None:
        """Note the part, and the row in it, of the examples `rows` of `data`, which get the indices `positions`."""
        if hasattr(data, "gather"):
            self.part_of[positions], self.row_of[positions] = len(self.parts), rows
            self.parts.append(data)
            return
        parts, part_ends, chosen = concatenation(data)
        if chosen is not None:
            rows = torch.tensor([chosen[row] for row in rows.tolist()], dtype=torch.long)
        ends = torch.tensor(part_ends)
        within = torch.searchsorted(ends, rows, right=True)
        for i, part in enumerate(parts):
            inside = within == i
            if inside.any():
                self._locate(part, rows[inside] - (ends[i] - len(part)), positions[inside])

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in self.batches:
            rows = torch.as_tensor(batch)
            part_of, row_of = self.part_of[rows], self.row_of[rows]
            present = part_of.unique().tolist()
            gathered = [self.parts[i].gather(row_of[part_of == i]) for i in present]
            x, y = (torch.cat(columns) for columns in zip(*gathered, strict=True))
            if len(present) > 1:  # they stand part after part: back into the order of the batch
                order = torch.cat([(part_of == i).nonzero()[:, 0] for i in present]).argsort()
                x, y = x[order], y[order]
            yield [x, y, *(attribute[rows] for attribute in self.attributes)]


def _column(attribute: DataAttribute[Any]) -> Tensor:
    """Return the values of all examples as one tensor."""
    values = attribute.data
    if isinstance(values, ConstantSequence):
        return torch.as_tensor(values[0]).expand(len(values))
    listed = list(values)
    return torch.stack(listed) if isinstance(listed[0], Tensor) else torch.tensor(listed)


def batch_rows(
    data: TaskData, batch_size: int, *, shuffle: bool = False, shard: tuple[int, int] = (0, 1)
) -> LengthGroupedBatches:
    """Return batches of a dataset's examples, or of a `shard`; texts, which have `lengths`, come in like lengths."""
    return LengthGroupedBatches(getattr(data, "lengths", [0] * len(data)), batch_size, shuffle, shard)


def loader_of(
    data: TaskData, batches: LengthGroupedBatches | Sequence[list[int]], workers: int = 0, pin: bool = False
) -> WholeBatches | DataLoader[Any]:
    """Return the mini-batches [x, y, ..., task labels] of an Avalanche dataset at these lists of indices.

    :param workers: processes that make examples; if there are any, the batches come from a `DataLoader`.
    :param pin: let the `DataLoader` put its batches in page-locked memory.
    """
    try:
        if workers == 0:
            return WholeBatches(data, batches)
    except TypeError:
        pass  # made one by one
    # A generator of its own, since a loader draws a number that only its workers need.
    generator = torch.Generator()
    examples = cast(Dataset[Any], data)  # Avalanche's have what torch's class has, but do not extend it
    return DataLoader(examples, batch_sampler=batches, num_workers=workers, pin_memory=pin, generator=generator)


def numbered_batches(
    data: TaskData, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield all data, or a `shard`, in mini-batches of like length, each with the indices of its examples."""
    batches = list(batch_rows(data, batch_size, shard=shard))
    yield from zip(batches, loader_of(data, batches), strict=True)


class RemainingBatches:
    """The rest of an epoch: a loader's batches after the first `done`, in the order they had.

    :param loader: as it is at the start of an epoch.
    :param done: number of batches to skip.
    :param order: torch's random state when the epoch began, from which the order of the batches follows.
    """

    def __init__(self, loader: Any, done: int, order: Tensor) -> None:
        self.loader = loader
        self.done = done
        self.order: Tensor | None = order

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self.order is None:  # the next epoch
            yield from self.loader
            return
        now = torch.get_rng_state()
        torch.set_rng_state(self.order)
        self.order = None
        batches = iter(self.loader)
        for _ in range(self.done):
            next(batches)
        torch.set_rng_state(now)
        yield from batches
