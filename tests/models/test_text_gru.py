"""The recurrent net against a plain loop, its place in the frozen encoder, and who refuses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nlpcl.models import BertFrozen, build_model
from nlpcl.models.frozen import TextGRU
from nlpcl.strategies.hat import HAT
from nlpcl.strategies.owm import OWM
from nlpcl.strategies.ucl import UCL
from tests.helpers.encoders import packed
from tests.helpers.loops import gru_states
from tests.helpers.messages import refused


def test_the_feature_is_the_state_at_the_last_real_token() -> None:
    torch.manual_seed(0)
    net = TextGRU(5, 4, 0.5).eval()
    lengths = [7, 4, 1]
    x, mask = torch.randn(3, 7, 5), torch.arange(7) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        out = net(x, mask)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(out[row], gru_states(net.gru, x[row, :length])[-1])
        torch.testing.assert_close(net.states(x)[0], gru_states(net.gru, x[0]))


def test_dropout_is_on_the_output_alone() -> None:
    net, x, mask = TextGRU(5, 400, 0.5).train(), torch.randn(1, 3, 5), torch.ones(1, 3, dtype=torch.bool)
    out, whole = net(x, mask), net.states(x)[:, -1]
    kept = out != 0
    torch.testing.assert_close(out[kept], 2 * whole[kept])
    assert 0.3 < kept.float().mean() < 0.7


def test_padding_changes_nothing_and_is_seen_with_parity(tiny: str) -> None:
    backbone, x = BertFrozen(tiny, net="gru", hidden=8).eval(), packed([3, 9, 14, 1])
    trimmed = backbone.features(x, 0)
    backbone.encoder.padding = "fixed"
    torch.testing.assert_close(backbone.features(x, 0), trimmed, atol=1e-6, rtol=0)
    backbone.set_parity()
    hidden, _ = backbone.tokens(x, 0)
    assert isinstance(backbone.net, TextGRU)
    assert hidden.shape[1] == x.shape[2]
    assert torch.equal(backbone.features(x, 0), backbone.net.states(hidden)[:, -1])


def test_what_trains_and_what_can_be_put_in_its_place(tiny: str) -> None:
    backbone = BertFrozen(tiny, net="gru")
    assert backbone.width == 32 and backbone.sites() == []
    assert {name.partition(".")[0] for name, p in backbone.named_parameters() if p.requires_grad} == {"net"}
    other = TextGRU(32, 32, 0.0)
    backbone.net = other
    assert backbone.net is other
    with refused("net gnu gru"):
        BertFrozen(tiny, net="gnu")  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", [HAT, OWM, UCL])
def test_methods_on_single_layers_refuse_it(cls: Any, benchmark_of: Any, tiny: str) -> None:
    model = build_model(benchmark_of("til", (2, 2)), backbone="bert_frozen", encoder=tiny, net="gru")
    with refused("net=cnn"):
        cls(model=model, optimizer=torch.optim.SGD(model.heads.parameters(), lr=0.1))
