"""Encoder, adapters, heads and the blocking factor of a site."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nlpcl.models import BertAdapter, Site, TaskHeads, build_model, row_factor, weight_factor
from nlpcl.models.adapters import NORMS
from nlpcl.models.encoder import FULL_ATTENTION, TextEncoder, broadcast_mask
from nlpcl.models.heads import ABSENT
from tests.helpers.encoders import packed
from tests.helpers.messages import refused


@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert"])
def test_adapters_stand_at_both_places_of_each_layer(encoders: dict[str, str], shape: str) -> None:
    backbone = BertAdapter(encoders[shape], adapter_size=8)
    assert len(backbone.adapters()) == 4
    trainable = {name for name, p in backbone.named_parameters() if p.requires_grad}
    norms = [name for name in trainable if "LayerNorm" in name or "layer_norm" in name]
    assert len(norms) == 2 * 4  # weight and bias of two LayerNorms in each of two layers
    assert all(".1." in name or name in norms for name in trainable)
    called: list[int] = []
    for i, adapter in enumerate(backbone.adapters()):
        adapter.register_forward_hook(lambda *_, i=i: called.append(i))
    assert backbone.features(packed([5, 9]), 0).shape == (2, 32)
    assert called == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert"])
def test_an_adapter_acts_before_the_residual_addition(encoders: dict[str, str], shape: str) -> None:
    """With the adapter adding c, the LayerNorm must see dense + c + residual."""
    backbone = BertAdapter(encoders[shape], adapter_size=8).eval()

    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 3.0

    seen: list[torch.Tensor] = []
    norm = next(module for name, module in backbone.named_modules() if NORMS.fullmatch(name))
    norm.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
    x = packed([6])
    backbone.set_adapters(lambda hidden: nn.Identity())
    backbone.features(x, 0)
    backbone.set_adapters(lambda hidden: Constant())
    backbone.features(x, 0)
    torch.testing.assert_close(seen[1], seen[0] + 3.0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("shape", ["bert", "roberta"])
def test_trimmed_and_full_length_batches_agree(encoders: dict[str, str], shape: str, pooling: str) -> None:
    backbone = BertAdapter(encoders[shape], adapter_size=8, pooling=pooling).eval()  # type: ignore[arg-type]
    x = packed([3, 9, 14])
    backbone.encoder.padding = "dynamic"
    trimmed = backbone.features(x, 0)
    backbone.encoder.padding = "fixed"
    torch.testing.assert_close(trimmed, backbone.features(x, 0), atol=1e-5, rtol=0)


def test_trimming_shortens_what_is_computed(tiny: str) -> None:
    encoder = TextEncoder(tiny)
    assert encoder.prepare(packed([3, 9])).shape == (2, 3, 16)
    assert TextEncoder(tiny, padding="fixed").prepare(packed([3, 9])).shape == (2, 3, 32)


@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert"])
def test_a_mask_ready_for_attention_is_the_same_mask(encoders: dict[str, str], shape: str) -> None:
    """What spares a GPU's host a wait in each step; on a CPU it would cost a few per cent."""
    encoder = TextEncoder(encoders[shape]).eval()
    assert encoder.model.config.model_type in FULL_ATTENTION and encoder.model.config._attn_implementation == "sdpa"
    ids, mask = torch.randint(5, 20, (4, 16)), torch.ones(4, 16, dtype=torch.long)
    mask[1, 5:], mask[3, 9:] = 0, 0
    plain, ready = (
        encoder.model(input_ids=ids, attention_mask=m).last_hidden_state for m in (mask, broadcast_mask(mask))
    )
    assert torch.allclose(plain[mask.bool()], ready[mask.bool()], atol=1e-6)
    unmasked = encoder.model(input_ids=ids).last_hidden_state
    assert not torch.allclose(plain[mask.bool()], unmasked[mask.bool()], atol=1e-3)


def test_no_pooler_and_unknown_pooling_are_refused(encoders: dict[str, str]) -> None:
    with refused("pooler"):
        BertAdapter(encoders["distilbert"], pooling="pooler")
    with refused("pooling meen mean"):
        BertAdapter(encoders["bert"], pooling="meen")  # type: ignore[arg-type]


def test_missing_encoder_says_how_to_get_it() -> None:
    with refused("no-such/encoder folder"):
        TextEncoder("no-such/encoder")


def test_mixed_batch_of_heads_equals_each_head_alone() -> None:
    heads = TaskHeads(8, [2, 3, 2])
    x, tasks = torch.randn(6, 8), torch.tensor([0, 1, 2, 1, 0, 2])
    mixed = heads(x, tasks)
    for row, task in enumerate(tasks.tolist()):
        alone = heads(x[row : row + 1], task)[0]
        torch.testing.assert_close(mixed[row, : len(alone)], alone)
        assert (mixed[row, len(alone) :] == ABSENT).all()
    with pytest.raises(ValueError, match=r"\b0 to 2\b"):
        heads(x, 3)


def test_a_step_on_one_task_leaves_other_heads_without_gradient() -> None:
    heads = TaskHeads(8, [2, 2])
    heads(torch.randn(4, 8), 0).sum().backward()
    assert heads.linears[0].weight.grad is not None
    assert heads.linears[1].weight.grad is None


def test_blocking_factor_against_a_plain_loop() -> None:
    """Conv -> flatten -> linear: each channel of the conv feeds `area` columns."""
    width_in, area, width_out = 3, 4, 5
    linear = nn.Linear(width_in * area + 2, width_out)
    conv = nn.Conv2d(1, width_in, 2)
    lower = Site("conv", conv, nn.ReLU(), width_in, inputs=((None, 1),))
    site = Site("fc", linear, nn.ReLU(), width_out, inputs=(("conv", area), (None, 2)))
    masks = {"conv": torch.rand(width_in), "fc": torch.rand(width_out)}
    factor = weight_factor(site, masks)
    for i in range(width_out):
        for j in range(width_in * area + 2):
            below = masks["conv"][j // area] if j < width_in * area else torch.tensor(1.0)
            assert factor[i, j] == 1 - min(masks["fc"][i], below)
    torch.testing.assert_close(row_factor(site, masks), 1 - masks["fc"])
    assert weight_factor(lower, masks).shape == (3, 1, 1, 1)


def test_model_call_without_task_labels(benchmark_of: Any, tiny: str) -> None:
    x = packed([4, 5])
    til = build_model(benchmark_of("til"), encoder=tiny, adapter_size=8)
    with pytest.raises(ValueError, match="task_labels"):
        til(x)
    dil = build_model(benchmark_of("dil"), encoder=tiny, adapter_size=8)
    assert dil(x).shape == (2, 3)


@pytest.mark.parametrize(("shape", "most"), [("bert", 64), ("roberta", 63), ("distilbert", 64)])
def test_an_encoder_says_how_many_positions_it_has(encoders: dict[str, str], shape: str, most: int) -> None:
    """RoBERTa begins to count behind the index of padding, here 0: of its table of 64 it has 1 to 63."""
    backbone = BertAdapter(encoders[shape], adapter_size=4)
    features = backbone.features_of(torch.zeros(1, most, 32), torch.ones(1, most, dtype=torch.bool), 0)
    assert backbone.positions == most and features.shape == (1, 32)
    with pytest.raises((IndexError, RuntimeError)):
        backbone.features_of(torch.zeros(1, most + 1, 32), torch.ones(1, most + 1, dtype=torch.bool), 0)
