"""Speed of preparation and share of padding of each text stream.

    python tools/streams.py --data-root DIR asc dsc nli newsgroups demo

Prints, for each stream, tokens a second of a first and a second start (a fresh cache folder is used), and what share of
the positions computed on is padding with batches of 32 that are fixed, dynamic, or of like length.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def padding(lengths: torch.Tensor, batches: list[list[int]], fixed: int | None = None) -> float:
    """Return the share of the computed positions that hold no token."""
    computed = sum((fixed or -(-int(lengths[batch].max()) // 8) * 8) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / computed


def measure(name: str, model: str, root: str | None, batch_size: int) -> list[Any]:
    """Return a stream's row of the table."""
    from nlpcl.registry import benchmarks
    from nlpcl.training.batches import LengthGroupedBatches

    entry, seconds = benchmarks.get(name), []
    for _ in range(2):
        started = time.monotonic()
        stream = entry.target(entry.scenarios[0], 0, tokenizer=model, max_length=128, root=root)
        seconds.append(time.monotonic() - started)
    torch.manual_seed(0)
    tokens, shares, examples = 0, [0.0, 0.0, 0.0], 0
    for experience in stream.train_stream:
        lengths = torch.tensor(list(experience.dataset.lengths))
        mixed = [batch.tolist() for batch in torch.randperm(len(lengths)).split(batch_size)]
        grouped = list(LengthGroupedBatches(lengths.tolist(), batch_size, shuffle=True))
        padded = padding(lengths, mixed, 128), padding(lengths, mixed), padding(lengths, grouped)
        shares = [old + new * len(lengths) for old, new in zip(shares, padded, strict=True)]
        examples += len(lengths)
    for part in (stream.train_stream, stream.valid_stream, stream.test_stream):
        tokens += sum(sum(experience.dataset.lengths) for experience in part)
    rates = [f"{tokens / second:,.0f}" for second in seconds]
    return [name, tokens, *rates, f"{seconds[1]:.2f}", *(f"{100 * share / examples:.1f}" for share in shares)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of preparation and share of padding of text streams.")
    parser.add_argument("benchmarks", nargs="+")
    parser.add_argument("--data-root", help="folder with the data")
    parser.add_argument("--model", default="minilm", help="the encoder whose tokenizer counts")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    table = Table()
    for column in ("stream", "tokens", "tokens/s first", "tokens/s again", "s again", *("% padding " + how for how in
                   ("fixed", "dynamic", "grouped"))):  # fmt: skip
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for name in arguments.benchmarks:
            row = measure(name, arguments.model, arguments.data_root, arguments.batch_size)
            table.add_row(*map(str, row))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
