"""Every strategy of the engine trains in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nlpcl.models import build_model
from nlpcl.registry import strategies

ENGINE = [entry for entry in strategies.entries() if entry.engine and entry.protocol != "joint"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("entry", ENGINE, ids=lambda entry: entry.name)
def test_half_precision(entry: Any, precision: str, benchmark_of: Any, tiny: str) -> None:
    """Two tasks: all stays finite, something of the backbone moves in the second, and no step is skipped."""
    benchmark = benchmark_of("til", (2, 3), n=16)
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    strategy = entry.target(
        model=model, optimizer=optimizer, train_mb_size=8, train_epochs=2, precision=precision, clip_norm=1.0
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(name.startswith("backbone.encoder") for name in moved)
    assert precision == "bf16" or strategy.scaler.get_scale() == 65536.0
