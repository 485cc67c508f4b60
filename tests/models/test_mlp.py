"""The two-layer net for images, and the seam between inputs and features on every backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nlpcl.models import MLP, ImageCNN, build_model, weight_factor
from nlpcl.models.gates import Gates
from nlpcl.strategies.hat import HAT
from nlpcl.strategies.owm import OWM
from nlpcl.strategies.ucl import UCL
from tests.helpers.images import logits, tiny_images


def test_computes_two_layers_and_drops_pixels_and_units() -> None:
    torch.manual_seed(0)
    net = MLP((3, 8, 6), hidden=10)
    x = torch.rand(4, 3, 8, 6)
    assert sorted(m.p for m in net.modules() if isinstance(m, nn.Dropout)) == [0.2, 0.5]
    assert not torch.equal(net.features(x, 0), net.features(x, 0))
    first, second = net.linears
    expected = second(first(x.reshape(4, -1)).relu()).relu()  # type: ignore[operator]
    torch.testing.assert_close(net.eval().features(x, 0), expected)
    assert MLP((1, 28, 28)).width == 2000


def test_sites_are_both_layers() -> None:
    torch.manual_seed(0)
    net = MLP((1, 5, 5), hidden=6).eval()
    sites = net.sites()
    assert [(site.name, site.width, site.inputs) for site in sites] == [
        ("fc1", 6, ((None, 25),)),
        ("fc2", 6, (("fc1", 1),)),
    ]
    masks = {"fc1": torch.tensor([1.0, 0, 0, 0, 0, 0]), "fc2": torch.tensor([0, 1.0, 0, 0, 0, 0])}
    blocked = weight_factor(sites[1], masks) == 0
    assert blocked.nonzero().tolist() == [[1, 0]]
    gates = Gates(sites, net.context, 1, 400.0, 0.0, 1.0, soft=False).eval()
    gates.begin(0)
    gates.end()
    x = torch.rand(3, 1, 5, 5)
    gated = net.features(x, 0)
    with torch.no_grad():
        for site, mask in zip(sites, gates.mask(0).split(6), strict=True):
            site.module.weight.mul_(mask.unsqueeze(1))  # type: ignore[operator]
            site.module.bias.mul_(mask)  # type: ignore[operator]
    gates.trained = []
    torch.testing.assert_close(net.features(x, 0), gated)


@pytest.mark.parametrize("cls", [HAT, UCL, OWM])
def test_methods_that_shape_layers_learn_on_it(cls: Any) -> None:
    benchmark = tiny_images("til", (2, 2))
    torch.manual_seed(1)
    model = build_model(benchmark, "mlp", hidden=48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    options = {"gate_learning_rate": 0.01} if cls is HAT else {}
    strategy = cls(model=model, optimizer=optimizer, train_mb_size=8, train_epochs=15, **options)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    test = benchmark.test_stream[1]
    right = logits(strategy, test, 1).argmax(1) == torch.tensor(list(test.dataset.targets))
    assert right.float().mean() > 0.8


# --- the seam


@pytest.mark.parametrize("net", [MLP((1, 16, 16), hidden=8), ImageCNN((1, 16, 16), hidden=8)])
def test_images_are_their_own_embedding(net: Any) -> None:
    x = torch.rand(2, 1, 16, 16)
    embedded, mask = net.eval().embed(x)
    assert embedded is x and mask is None
    assert torch.equal(net.features_of(embedded, mask, 0), net.features(x, 0))


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("shape", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("backbone", ["bert", "bert_adapter", "bert_frozen"])
def test_features_of_embedded_text_are_its_features(
    backbone: str, shape: str, parity: bool, encoders: dict[str, str], benchmark_of: Any
) -> None:
    if parity and shape == "roberta":
        pytest.skip("it counts positions from ids, so it sees padding that embeddings do not show")
    benchmark = benchmark_of("til", (2, 3))
    options = {"adapter_size": 8} if backbone == "bert_adapter" else {}
    net = build_model(benchmark, backbone, encoder=encoders[shape], **options).backbone.eval()
    if parity:
        net.set_parity()
    x = torch.stack([benchmark.train_stream[0].dataset[i][0] for i in range(6)])
    assert len(set(x[:, 1].sum(dim=1).tolist())) > 1
    if shape == "bert":
        assert x[:, 2].any()
    embedded, mask = net.embed(x)
    assert mask is not None and embedded.shape[:2] == mask.shape
    torch.testing.assert_close(net.features_of(embedded, mask, 1), net.features(x, 1))
    assert net.context.task == 1
    assert net.context.mask is not None and torch.equal(net.context.mask, torch.ones_like(mask) if parity else mask)


@pytest.mark.parametrize("backbone", ["bert", "bert_adapter", "bert_frozen"])
def test_second_derivatives_do_not_change_features(backbone: str, tiny: str, benchmark_of: Any) -> None:
    benchmark = benchmark_of("til", (2, 3))
    options = {"net": "gru"} if backbone == "bert_frozen" else {}
    net: Any = build_model(benchmark, backbone, encoder=tiny, **options).backbone.eval()
    x = torch.stack([benchmark.train_stream[0].dataset[i][0] for i in range(4)])
    before = net.features(x, 0)
    net.allow_second_derivatives()
    assert backbone != "bert_frozen" or not net.net.cudnn
    after = net.features(x, 0)
    torch.testing.assert_close(before, after)
    p = next(p for p in net.parameters() if p.requires_grad)
    (first,) = torch.autograd.grad(after.square().sum(), p, create_graph=True)
    assert torch.autograd.grad(first.sum(), p)[0].isfinite().all()
