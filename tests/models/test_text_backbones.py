"""Full fine-tuning and the frozen encoder with a convolutional net: sites, what trains, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from nlpcl.errors import UsageError
from nlpcl.models import Adapter, Bert, BertAdapter, BertFrozen
from nlpcl.models.adapters import NORMS
from nlpcl.models.base import unprotected
from nlpcl.models.encoder import KNOWN_LAYERS
from nlpcl.models.frozen import TextCNN
from tests.helpers.encoders import packed, save_tiny
from tests.helpers.loops import loop_cnn
from tests.helpers.sites import check_sites

UNKNOWN = ["longformer", "big_bird", "albert", "convbert", "modernbert", "funnel", "xlnet", "mobilebert", "esm", "fnet"]


@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert"])
def test_bert_sites_are_the_feed_forward_and_both_projections(encoders: dict[str, str], shape: str) -> None:
    backbone = Bert(encoders[shape])
    sites = backbone.sites()
    assert [site.width for site in sites] == [32, 64, 32] * 2
    check_sites(sites, backbone, packed([5, 9]))
    rest = {id(p) for p in unprotected(backbone)}
    names = {name for name, p in backbone.named_parameters() if id(p) in rest}
    assert any("query" in name or "q_lin" in name for name in names)
    assert any("embeddings" in name for name in names)
    at_sites = {id(p) for site in sites for p in site.module.parameters()}
    trainable = {id(p) for p in backbone.parameters() if p.requires_grad}
    assert rest | at_sites == trainable and not rest & at_sites


@pytest.mark.parametrize("kind", UNKNOWN)
def test_layers_that_are_not_known_have_neither_sites_nor_adapters(kind: str, tmp_path: Path) -> None:
    """Some bear the names of BERT's layers; Longformer pads to its window, BigBird and ESM mean others by them."""
    folder = save_tiny(tmp_path / kind, kind)
    backbone, x = Bert(folder), packed([5, 9])
    assert backbone.features(x, 0).shape == (2, backbone.width)
    assert BertFrozen(folder, filters=4).features(x, 0).shape == (2, 12)
    with pytest.raises(UsageError, match=kind):
        backbone.sites()
    with pytest.raises(UsageError, match=kind):
        BertAdapter(folder, adapter_size=4)


@pytest.mark.parametrize("kind", KNOWN_LAYERS)
def test_layers_that_are_known(kind: str, tmp_path: Path) -> None:
    """Sites of `bert`; adapters of `bert_adapter`, which act before the residual addition that a LayerNorm takes."""
    folder, x = save_tiny(tmp_path / kind, kind), packed([5, 9])
    backbone = Bert(folder)
    check_sites(backbone.sites(), backbone, x)
    with_adapters = BertAdapter(folder, adapter_size=4).eval()
    check_sites(with_adapters.sites(), with_adapters, x)
    norms = [module for name, module in with_adapters.named_modules() if NORMS.fullmatch(name)]
    assert len(norms) == len(with_adapters.adapters()) == 4
    assert all(p.requires_grad for norm in norms for p in norm.parameters())
    seen: list[torch.Tensor] = []
    for norm in norms:
        norm.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
    for i in range(4):
        for bottleneck in (0.0, 3.0):
            for j, adapter in enumerate(cast(list[Adapter], with_adapters.adapters())):
                nn.init.zeros_(adapter.up.weight)
                nn.init.constant_(adapter.up.bias, bottleneck if i == j else 0.0)
            with_adapters.features(x, 0)
        torch.testing.assert_close(seen[4 + i], seen[i] + 3.0)
        del seen[:]


def test_the_pooler_trains_only_where_it_is_the_feature(tiny: str) -> None:
    def trains(backbone: Bert) -> bool:
        return any(p.requires_grad for name, p in backbone.named_parameters() if "pooler" in name)

    assert not trains(Bert(tiny))
    backbone = Bert(tiny, pooling="pooler")
    assert trains(backbone)
    backbone.set_parity()
    assert not trains(backbone)


@pytest.mark.parametrize("layers", [0, 2])
def test_text_cnn_against_a_plain_loop(layers: int) -> None:
    torch.manual_seed(0)
    cnn = TextCNN(6, 4, layers, 5, 0.5).eval()
    lengths = [9, 5, 3, 2, 1]
    x, mask = torch.randn(5, 9, 6), torch.arange(9) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        out = cnn(x, mask)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(out[row], loop_cnn(cnn, x[row, :length]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 2])
def test_frozen_sites_and_what_trains(tiny: str, layers: int) -> None:
    backbone = BertFrozen(tiny, filters=4, layers=layers)
    sites = backbone.sites()
    assert [site.width for site in sites] == [4, 4, 4] + [32] * layers
    check_sites(sites, backbone, packed([5, 9]))
    assert not unprotected(backbone)
    trainable = {name.partition(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"net"}


def test_frozen_encoder_has_no_dropout_unless_with_parity(tiny: str) -> None:
    backbone, x = BertFrozen(tiny, dropout=0.0).train(), packed([5, 9])
    assert torch.equal(backbone.features(x, 0), backbone.features(x, 0))
    backbone.set_parity()
    backbone.train()
    assert not torch.equal(backbone.features(x, 0), backbone.features(x, 0))


@pytest.mark.parametrize("cls", [Bert, BertFrozen])
def test_padding_changes_nothing(cls: Any, tiny: str) -> None:
    backbone, x = cls(tiny).eval(), packed([3, 9, 14, 1])
    trimmed = backbone.features(x, 0)
    backbone.encoder.padding = "fixed"
    torch.testing.assert_close(trimmed, backbone.features(x, 0), atol=1e-5, rtol=0)
    alone = torch.cat([backbone.features(x[i : i + 1], 0) for i in range(4)])
    torch.testing.assert_close(trimmed, alone, atol=1e-5, rtol=0)
