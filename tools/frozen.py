"""What computing a frozen encoder's states once saves.

    python tools/frozen.py --data-root DIR --benchmark asc --train-size 200 --epochs 10

Trains NCL on `bert_frozen` over one task, in one process: with the encoder in every step, and with states computed
once (a fresh cache folder is used). Beside the measured ratio stands what arithmetic allows: with e seconds for the
examples' pass through the encoder and c for an epoch on stored states, n (e + c) / (e + n c) over n epochs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any


def train(benchmark: Any, arguments: argparse.Namespace) -> float:
    """Seconds of training on the first task."""
    import torch

    from nlpcl.models import build_model
    from nlpcl.strategies.ncl import NCL

    torch.manual_seed(0)
    model = build_model(benchmark, "bert_frozen", arguments.model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    strategy = NCL(model=model, optimizer=optimizer, train_mb_size=32, train_epochs=arguments.epochs, evaluator=None)
    started = time.monotonic()
    strategy.train(benchmark.train_stream[0])
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="What computing a frozen encoder's states once saves.")
    parser.add_argument("--data-root", help="folder with the data")
    parser.add_argument("--benchmark", default="demo")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        from nlpcl.models import precompute
        from nlpcl.registry import benchmarks

        entry, sizes = benchmarks.get(arguments.benchmark), {"tasks": 1, "train_size": arguments.train_size}
        benchmark = entry.target("til", 0, tokenizer=arguments.model, root=arguments.data_root, **sizes)
        live = train(benchmark, arguments)
        started = time.monotonic()
        states = precompute(benchmark, arguments.model, splits=("train",))  # alone, as in the other measurement
        once = time.monotonic() - started
        net = train(benchmark, arguments)
    n, epoch = arguments.epochs, net / arguments.epochs
    examples = len(benchmark.packed["train"][0])
    print(f"{examples} examples, {len(states.table)} tokens, {2 * states.table.numel() / 1e6:.1f} MB")
    print(f"{n} epochs with the encoder in every step: {live:.1f} s")
    print(f"states computed once: {once:.1f} s, then {n} epochs: {net:.1f} s")
    print(f"ratio {live / (once + net):.1f}; bound n (e + c) / (e + n c) = {n * (once + epoch) / (once + net):.1f}")


if __name__ == "__main__":
    main()
