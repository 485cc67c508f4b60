"""Every strategy of the engine trains in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nlpcl.registry import strategies
from tests.test_contract import own_model

ENGINE = [entry for entry in strategies.entries() if entry.engine and entry.protocol != "joint"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("entry", ENGINE, ids=lambda entry: entry.name)
def test_half_precision(entry: Any, precision: str, benchmark_of: Any, tiny: str) -> None:
    """Two tasks: all stays finite, something of the backbone moves in the second, and on texts no step is skipped."""
    torch.manual_seed(0)
    benchmark, model = own_model(entry, benchmark_of, tiny)
    rate = 1e-2 if benchmark.modality == "text" else 1e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    strategy = entry.target(
        model=model, optimizer=optimizer, train_mb_size=8, train_epochs=2, precision=precision, clip_norm=1.0
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    model = strategy.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before.get(name, p))]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(name.startswith("backbone.") for name in moved)
    # Gradients of a net from random weights may be too large for the first scale; then it is halved.
    skips = benchmark.modality == "image"
    assert precision == "bf16" or strategy.scaler.get_scale() == 65536.0 or skips
