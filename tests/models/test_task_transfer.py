"""Attention over similar tasks' features, readouts trained together, and features under several masks at once."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models import build_model
from nlpcl.models.gates import Gates
from nlpcl.models.sizes import model_bytes, tensor_bytes
from nlpcl.strategies.cat.task_transfer import (
    MaskViews,
    TaskTransfer,
    TaskTransfers,
    TransferModel,
    readout_logits,
    train_readouts,
)
from tests.helpers.images import tiny_images


@torch.no_grad()
def loop_transfer(layer: TaskTransfer, features: Tensor) -> Tensor:
    """A transfer's logits, sample by sample and head by head, without dropout."""
    attention, width = layer.attention, features.shape[2]
    size = width // attention.num_heads
    maps = attention.in_proj_weight.split(width)
    shifts = attention.in_proj_bias.split(width)
    query = torch.relu(layer.embedding)
    q = maps[0] @ query + shifts[0]
    out = []
    for b in range(features.shape[1]):
        found = []
        for head in range(attention.num_heads):
            part = slice(head * size, (head + 1) * size)
            keys = [(maps[1] @ h + shifts[1])[part] for h in features[:, b]]
            values = [(maps[2] @ h + shifts[2])[part] for h in features[:, b]]
            scores = [math.exp(float(q[part] @ key) / math.sqrt(size)) for key in keys]
            found.append(sum(s / sum(scores) * value for s, value in zip(scores, values, strict=True)))
        mixed = attention.out_proj.weight @ torch.cat(found) + attention.out_proj.bias  # type: ignore[arg-type]
        u = layer_norm(query + mixed, layer.norms[0])
        w1, w2 = cast(nn.Linear, layer.feed[0]), cast(nn.Linear, layer.feed[2])
        fed = w2.weight @ torch.relu(w1.weight @ u + w1.bias) + w2.bias
        out.append(layer.head.weight @ layer_norm(u + fed, layer.norms[1]) + layer.head.bias)
    return torch.stack(out)


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("n", [1, 3])
def test_the_transfer_is_that_of_the_equations(n: int) -> None:
    torch.manual_seed(0)
    layer = TaskTransfer(12, 3, heads=5)
    assert layer.attention.num_heads == 4  # 5 does not divide 12
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    features = torch.randn(n, 4, 12)
    torch.testing.assert_close(layer.eval()(features), loop_transfer(layer, features), atol=1e-5, rtol=1e-5)
    layer(features).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_readouts_trained_together_are_those_trained_alone() -> None:
    torch.manual_seed(0)
    features, targets = torch.randn(60, 3, 5), torch.randint(4, (60,))

    def trained(some: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        return train_readouts(some, targets, 4, steps=40, learning_rate=0.05, batch_size=16)

    weight, bias = trained(features)
    logits = readout_logits(features, weight, bias)
    assert weight.shape == (3, 5, 4) and bias.shape == (3, 1, 4) and logits.shape == (3, 60, 4)
    for k in range(3):
        torch.manual_seed(1)
        alone = nn.Linear(5, 4)
        nn.init.zeros_(alone.weight), nn.init.zeros_(alone.bias)
        optimizer = torch.optim.Adam(alone.parameters(), lr=0.05)
        torch.manual_seed(1)
        for _ in range(40):
            rows = torch.randint(60, (16,))
            optimizer.zero_grad()
            F.cross_entropy(alone(features[rows, k]), targets[rows]).backward()
            optimizer.step()
        torch.testing.assert_close(weight[k], alone.weight.T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits[k], alone(features[:, k]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trained(features[:, 1:2])[0][0], weight[1])


def test_readouts_learn() -> None:
    torch.manual_seed(0)
    targets = torch.arange(90) % 3
    features = torch.randn(90, 2, 8)
    features[:, 0] += 3 * F.one_hot(targets, 8)
    weight, bias = train_readouts(features, targets, 3, steps=200, learning_rate=0.01)
    right = (readout_logits(features, weight, bias).argmax(-1) == targets).float().mean(dim=1)
    assert right[0] > 0.9 > right[1]


def gated(benchmark: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    model = build_model(benchmark, **options)
    backbone = model.backbone
    views = MaskViews(backbone)
    backbone.gates = Gates(backbone.sites(), backbone.context, model.n_tasks, 400.0, 0.0, 1.0, soft=False)
    backbone.gates.trained = list(range(model.n_tasks))
    return model, views


FIRST = {
    "bert_frozen": "encoder",
    "bert": "encoder",
    "bert_adapter": "encoder",
    "cnn": "convolutions.0",
    "mlp": "linears.0",
}


@pytest.mark.parametrize("backbone", FIRST)
def test_views_are_the_features_of_each_mask_alone(backbone: str, benchmark_of: Any, tiny: str) -> None:
    options: dict[str, Any] = {"hidden": 32}
    benchmark = tiny_images("til", (2, 2, 2))
    if backbone.startswith("bert"):
        sizes = {"bert_frozen": {"filters": 6, "layers": 2}, "bert": {}, "bert_adapter": {"adapter_size": 8}}
        benchmark, options = benchmark_of("til", (2, 2, 2), n=8), {"encoder": tiny, **sizes[backbone]}
    model, views = gated(benchmark, backbone=backbone, **options)
    model.eval()
    for site in model.backbone.sites():
        nn.init.normal_(site.module.weight, std=0.1)  # adapters start as next to nothing
    x = torch.stack([benchmark.train_stream[0].dataset[i][0] for i in range(6)])
    calls: list[Any] = []
    first = model.backbone.get_submodule(FIRST[backbone])
    first.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    model.backbone.gates.override = 2  # as in domain-incremental learning; the views do not mind
    found = views(x, [2, 0])
    # What no mask can change is computed once.
    assert calls == [12 if model.backbone.pretrained else 6]
    assert model.backbone.gates.override == 2
    model.backbone.gates.override = None
    alone = torch.stack([model.backbone.features(x, 2), model.backbone.features(x, 0)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    weight = torch.randn_like(found)
    weights = [site.module.weight for site in model.backbone.sites()]
    together, separate = (torch.autograd.grad((f * weight).sum(), weights) for f in (found, alone))
    torch.testing.assert_close(together, separate, atol=1e-5, rtol=1e-4)


def test_transfers_come_back_with_their_state() -> None:
    torch.manual_seed(0)
    transfers = TaskTransfers(8, [2, 3, 2, 4], heads=2)
    assert "0" not in transfers.layers and transfers.bytes_for(1) == 1
    transfers.begin(1, [])
    transfers.begin(2, [0, 1])
    transfers.chosen[2] = True
    transfers.begin(3, [1])
    layers = [transfers.of(task) for task in (2, 3)]
    assert not any(p.requires_grad for p in layers[0].parameters())
    assert all(p.requires_grad for p in layers[1].parameters())
    assert transfers.bytes_for(3) == 6 + tensor_bytes(layers[0].parameters())
    assert model_bytes(transfers, 4) == {"parameters": 0, "attention": transfers.bytes_for(4)}

    fresh = TaskTransfers(8, [2, 3, 2, 4], heads=2)
    fresh.begin(1, [0])
    fresh.load_state_dict(transfers.state_dict())
    assert fresh.similar == [[], [], [0, 1], [1]]
    assert fresh.chosen == [False, False, True, False]
    features = torch.randn(2, 5, 8)
    for task, layer in ((2, layers[0]), (3, layers[1])):
        assert torch.equal(fresh.of(task).eval()(features), layer.eval()(features))
    assert "1" not in fresh.layers


def test_each_task_has_the_logits_chosen_for_it() -> None:
    """Alone, in a mixed batch, and with all labels at once."""
    benchmark = tiny_images("til", (2, 3, 2))
    torch.manual_seed(0)
    model = TransferModel(build_model(benchmark, hidden=32), attention_heads=5)
    backbone = model.backbone
    backbone.gates = Gates(backbone.sites(), backbone.context, 3, 400.0, 0.0, 1.0, soft=False)
    backbone.gates.trained = [0, 1, 2]
    model.transfers.begin(1, [0])
    model.transfers.begin(2, [0, 1])
    model.eval()
    x = torch.rand(6, 1, 16, 16)
    plain = [model(x, task) for task in range(3)]
    model.transfers.chosen = [False, False, True]
    torch.testing.assert_close(model(x, 1), plain[1])
    own, transferred = model.both(x, 2)
    torch.testing.assert_close(own, plain[2])
    torch.testing.assert_close(model(x, 2), transferred)
    assert not torch.equal(transferred, own)
    mixed = model(x, torch.tensor([0, 2, 1, 2, 0, 1]))
    assert mixed.shape == (6, 3)
    torch.testing.assert_close(mixed[[1, 3], :2], transferred[[1, 3]])
    assert (mixed[[0, 1, 3, 4], 2] == -1000).all()
    torch.testing.assert_close(mixed[[2, 5]], plain[1][[2, 5]])
    torch.testing.assert_close(mixed[[0, 4], :2], plain[0][[0, 4]])
    with pytest.raises(ValueError, match="task_labels"):
        model(x)
    model.known_train_tasks_labels = {0, 2}
    everything = model(x, None)
    torch.testing.assert_close(everything[2], transferred)
    torch.testing.assert_close(copy.deepcopy(model)(x, 2), transferred)


def test_logits_of_the_transfer_are_laid_down_for_the_task_in_training_alone() -> None:
    """And left out of a copy, as a graph cannot be copied."""
    benchmark = tiny_images("til", (2, 2, 2))
    torch.manual_seed(0)
    model = TransferModel(build_model(benchmark, hidden=32), attention_heads=5)
    backbone = model.backbone
    gates = backbone.gates = Gates(backbone.sites(), backbone.context, 3, 400.0, 0.0, 1.0, soft=False)
    model.transfers.begin(1, [0])
    model.transfers.begin(2, [0, 1])
    gates.trained = [0, 1]
    gates.begin(2)
    x = torch.rand(4, 1, 16, 16)
    for task in (0, 1):
        model.train()(x, task)
        assert model.transferred is None
    model.eval()(x, 2)
    assert model.transferred is None
    model.train()(x, 2)
    assert model.transferred is not None and model.transferred.requires_grad
    assert copy.deepcopy(model).transferred is None
