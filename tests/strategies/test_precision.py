"""Every strategy of the engine trains in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nlpcl.models import build_model
from nlpcl.registry import strategies
from nlpcl.strategies.ncl import NCL
from nlpcl.training.device import tf32
from tests.helpers.contract import own_model

ENGINE = [entry for entry in strategies.entries() if entry.engine and entry.protocol != "joint"]
# Convolutions in fp16 are slow on a CPU, and ACL repeats each step five times.
PAIRS = [
    pytest.param(e, p, id=f"{e.name}-{p}", marks=[pytest.mark.full] if (e.name, p) == ("acl", "fp16") else [])
    for e in ENGINE
    for p in ("bf16", "fp16")
]


@pytest.mark.parametrize(("entry", "precision"), PAIRS)
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


def test_a_step_left_out_does_not_move_the_schedule(benchmark_of: Any, tiny: str) -> None:
    """With a first scale that overflows, the scaler leaves steps out until it has come down."""
    model = build_model(benchmark_of(), "bert_adapter", tiny, adapter_size=16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    strategy = NCL(model=model, optimizer=optimizer, train_mb_size=8, precision="fp16", schedule="linear")
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    strategy.train(benchmark_of().train_stream[0], eval_streams=[])
    taken = {int(state["step"]) for state in strategy.optimizer.state.values() if "step" in state}
    assert strategy._scheduler is not None
    assert taken == {strategy._scheduler.last_epoch} and max(taken) < 8


@pytest.mark.parametrize("name", ["gem", "agem", "derpp", "hal"])
def test_replay_leaves_out_a_step_that_overflows(name: str, benchmark_of: Any, tiny: str) -> None:
    """Also where a method takes a gradient before the backward pass: the second task begins with too large a scale."""
    entry, benchmark = strategies.get(name), benchmark_of()
    model = build_model(benchmark, "bert_adapter", tiny, adapter_size=16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    strategy = entry.target(model=model, optimizer=optimizer, train_mb_size=8, precision="fp16", memory_share=0.25)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=1e9)
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert strategy.scaler.get_scale() < 1e9
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())


def test_tests_run_in_inference_mode(benchmark_of: Any, tiny: str) -> None:
    seen: list[bool] = []
    model = build_model(benchmark_of(), "bert_adapter", tiny, adapter_size=16)
    model.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    NCL(model=model, optimizer=optimizer).eval(benchmark_of().test_stream)
    assert seen and all(seen)


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_a_matter_of_products_and_convolutions(allowed: bool) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with tf32(allowed):
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before
