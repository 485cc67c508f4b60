"""How well the batches of a text task are reshuffled, and what they pad.

    python tools/batches.py --data-root DIR

For random parts of ASC's training texts and for whole tasks, in batches of 16 and 32: the chance that two texts of one
batch are in one batch in the next epoch, too, and the positions computed for each real token. A pool of k batches is
sorted by length as one; k = 1 gives random batches.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nlpcl.benchmarks import ASC
from nlpcl.training.batches import pool_batches

TASKS = ("Bing9domains_ipod", "Bing3domains_Speaker", "Bing5domains_CreativeLabsNomadJukeboxZenXtra40GB")
SIZES = (50, 100, 200, 500, 1000, 2000, 5000)


def epoch(lengths: Tensor, batch_size: int, pool: int) -> list[Tensor]:
    """Return the batches of one epoch."""
    pools = torch.randperm(len(lengths)).split(pool * batch_size)
    return [batch for rows in pools for batch in rows[lengths[rows].argsort(stable=True)].split(batch_size)]


def measure(lengths: Tensor, batch_size: int, pool: int) -> tuple[float, float]:
    """Return the chance to meet again, and the positions computed for each real token, over 20,000 examples or more."""
    epochs = 20_000 // len(lengths) + 5
    met = pairs = computed = 0
    before: list[Tensor] = []
    for _ in range(epochs):
        batches = epoch(lengths, batch_size, pool)
        batch_of = torch.empty(len(lengths), dtype=torch.long)
        for i, batch in enumerate(batches):
            batch_of[batch] = i
            computed += -(-int(lengths[batch].max()) // 8) * 8 * len(batch)  # trimmed to a multiple of 8
        for batch in before:
            counts = batch_of[batch].bincount()
            met += int((counts * (counts - 1)).sum())
            pairs += len(batch) * (len(batch) - 1)
        before = batches
    return met / pairs, computed / (epochs * int(lengths.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description="How well texts are reshuffled, and what their batches pad.")
    parser.add_argument("--data-root", help="folder with the data")
    stream = ASC(root=parser.parse_args().data_root)
    torch.manual_seed(0)
    parts = [torch.tensor(list(experience.dataset.lengths)) for experience in stream.train_stream]
    texts = torch.cat(parts)
    samples = [("ASC", texts[torch.randperm(len(texts))[:size]]) for size in SIZES]
    samples += [(name, part) for name, part in zip(stream.task_names, parts, strict=True) if name in TASKS]
    table = Table()
    ways = ("random", "now", "k = 8", "k = N / 4B")
    for column in ("texts", "N", "B", "k now", *(f"{what}: {way}" for what in ("meet", "computed") for way in ways)):
        table.add_column(column, justify="right")
    for name, lengths in samples:
        for batch_size in (16, 32):
            now, quarter = pool_batches(len(lengths), batch_size), len(lengths) // (4 * batch_size)
            pools = (1, now, 8, min(50, max(1, quarter)))
            chances, costs = zip(*(measure(lengths, batch_size, pool) for pool in pools), strict=True)
            row = [*(f"{chance:.3f}" for chance in chances), *(f"{cost:.2f}" for cost in costs)]
            table.add_row(name.partition("_")[2] or name, str(len(lengths)), str(batch_size), str(now), *row)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
