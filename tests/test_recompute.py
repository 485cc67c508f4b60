"""Activations computed again in the backward pass, and compiled encoders: the same gradients as without."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
import torch._dynamo
import torch._inductor.config
import torch._inductor.metrics
from torch import Tensor
from transformers.models.bert.modeling_bert import BertSelfAttention

from nlpcl.cli import main
from nlpcl.models import build_model
from nlpcl.registry import strategies
from tests.helpers.messages import mentions, refused

# Of each kind one: no gates, gates, plug-ins that read the context, several passes in a step, second derivatives.
OFTEN = {
    ("ncl", "bert"),
    ("hat", "bert"),
    ("ctr", "bert_adapter"),
    ("classic", "bert_adapter"),
    ("hal", "bert_adapter"),
}
ENCODERS = [
    pytest.param(entry.name, backbone, marks=[] if (entry.name, backbone) in OFTEN else [pytest.mark.full])
    for entry in strategies.entries()
    for backbone in ("bert", "bert_adapter")
    if entry.engine and entry.protocol == "continual" and (entry.backbones is None or backbone in entry.backbones)
]


def two_tasks(name: str, backbone: str, how: str, benchmark_of: Any, tiny: str) -> tuple[Any, list[Tensor]]:
    """The strategy after it has trained two tasks, and all its parameters."""
    torch.manual_seed(0)
    options = {"adapter_size": 16} if backbone == "bert_adapter" else {}
    benchmark = benchmark_of(n=24)
    model = build_model(benchmark, backbone, encoder=tiny, **options)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    memory = {"memory_share": 0.25} if strategies.get(name).replay else {}
    strategy = strategies.get(name).target(model=model, optimizer=optimizer, train_mb_size=8, **memory)
    if how == "recompute":
        strategy.model.backbone.recompute_activations()
    elif how == "compile":
        strategy.model.backbone.compile_encoder()
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    return strategy, [p.detach().clone() for p in strategy.model.parameters()]


@pytest.mark.parametrize(("name", "backbone"), ENCODERS)
def test_recomputed_activations_give_the_same_training(
    name: str, backbone: str, benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, samples and the gates and tasks of several forward passes in one step included."""
    calls = [0]
    forward = BertSelfAttention.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", counted)
    _, plain = two_tasks(name, backbone, "", benchmark_of, tiny)
    once, calls[0] = calls[0], 0
    _, again = two_tasks(name, backbone, "recompute", benchmark_of, tiny)
    assert calls[0] > once
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["hat", *(pytest.param(name, marks=pytest.mark.full) for name in ("bcl", "ctr", "ucl"))]
)
def test_a_compiled_encoder_gives_the_same_training(
    name: str, benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code that is captured run as it is: what is compiled of it is torch's own affair."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compiled(*args, **{**options, "backend": "eager"}))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    _, plain = two_tasks(name, "bert_adapter", "", benchmark_of, tiny)
    assert not counters["frames"]
    strategy, again = two_tasks(name, "bert_adapter", "compile", benchmark_of, tiny)
    assert counters["frames"]["ok"] > 0
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    copied = copy.deepcopy(strategy.model.eval())
    x = torch.stack([benchmark_of().test_stream[0].dataset[i][0] for i in range(4)])
    torch.testing.assert_close(copied(x, 0), strategy.model(x, 0))


@pytest.mark.full
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles for a CPU with a C++ compiler")
@pytest.mark.parametrize("name", ["ncl", "hat"])
def test_what_torch_compiles_gives_the_same_training(name: str, benchmark_of: Any, tiny: str) -> None:
    """By its default backend, told to draw dropout as it is drawn without."""
    torch._dynamo.reset()
    _, plain = two_tasks(name, "bert_adapter", "", benchmark_of, tiny)
    compiled = torch._inductor.metrics.generated_kernel_count
    with torch._inductor.config.patch(fallback_random=True, force_disable_caches=True):
        _, again = two_tasks(name, "bert_adapter", "compile", benchmark_of, tiny)
    assert torch._inductor.metrics.generated_kernel_count > compiled
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_both_at_once_are_refused(benchmark_of: Any, tiny: str) -> None:
    model = build_model(benchmark_of(), "bert", encoder=tiny)
    model.backbone.recompute_activations()
    with refused("--compile --gradient-checkpointing"):
        model.backbone.compile_encoder()


def test_without_an_encoder_both_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--compile", "--gradient-checkpointing"):
        assert main(["run", "--strategy", "ncl", "--backbone", "w2v", "--train-size", "8", flag]) == 2
        assert mentions(capsys.readouterr().err, flag)
