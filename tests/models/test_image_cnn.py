"""The net for images: shapes, gates on feature maps, and HAT's exact blocking."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nlpcl.benchmarks._images import image_benchmark_from_tasks
from nlpcl.models import ImageCNN, build_model, weight_factor
from nlpcl.models.gates import Gates
from nlpcl.models.images import side_after
from nlpcl.strategies.hat import HAT
from tests.helpers.images import logits, make_task
from tests.helpers.messages import refused


def tiny_images(scenario: str, classes: tuple[int, ...]) -> Any:
    tasks = [make_task(i, c) for i, c in enumerate(classes)]
    return image_benchmark_from_tasks(tasks, name="tiny", scenario=scenario)


@pytest.mark.parametrize(("channels", "size", "flat"), [(1, 28, 1024), (3, 32, 1024), (3, 64, 6400), (1, 16, 256)])
def test_shapes_are_those_of_the_paper(channels: int, size: int, flat: int) -> None:
    backbone = ImageCNN((channels, size, size))
    assert backbone.features(torch.rand(2, channels, size, size), 0).shape == (2, 2048)
    assert backbone.linears[0].weight.shape == (2048, flat)
    kernels = [tuple(c.weight.shape) for c in backbone.convolutions]  # type: ignore[union-attr,operator,arg-type]
    one, two = size // 8, size // 10
    assert kernels == [(64, channels, one, one), (128, 64, two, two), (256, 128, 2, 2)]
    assert [site.width for site in backbone.sites()] == [64, 128, 256, 2048, 2048]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 11, 11), (3, 32, 28)])
def test_what_is_too_small_or_not_square_is_refused(shape: tuple[int, int, int]) -> None:
    with refused("12"):
        ImageCNN(shape)
    assert all(side_after(size) >= 1 for size in range(12, 300))


def test_a_gate_closes_whole_feature_maps_and_what_reads_them() -> None:
    """Closing units by gates is the same as zeroing the rows of the layer that makes them."""
    torch.manual_seed(0)
    net = ImageCNN((1, 16, 16), hidden=16).eval()
    sites = net.sites()
    gates = Gates(sites, net.context, 2, 400.0, 0.0, 1.0, soft=False).eval()
    for task in (0, 1):
        gates.begin(task)
        gates.end()
    x = torch.rand(3, 1, 16, 16)
    alone = [net.features(x, task) for task in (0, 1)]
    mixed = net.features(x, torch.tensor([1, 0, 1]))
    torch.testing.assert_close(mixed, torch.stack([alone[1][0], alone[0][1], alone[1][2]]))
    masks = gates.mask(1).split([site.width for site in sites])
    gates.override = 1
    gated = net.features(x, 0)
    with torch.no_grad():
        for site, mask in zip(sites, masks, strict=True):
            site.module.weight.mul_(mask.reshape(-1, *[1] * (site.module.weight.dim() - 1)))  # type: ignore[operator,union-attr,arg-type]
            site.module.bias.mul_(mask)  # type: ignore[operator]
    torch.testing.assert_close(net.features(x, 0), gated)


def test_flattening_makes_columns_channel_by_channel() -> None:
    net = ImageCNN((3, 32, 32), hidden=8)
    sites = {site.name: site for site in net.sites()}
    masks = {name: torch.zeros(site.width) for name, site in sites.items()}
    masks["fc1"][:] = 1
    masks["conv3"][5] = 1
    blocked = weight_factor(sites["fc1"], masks) == 0
    assert blocked.shape == (8, 1024) and blocked[:, 20:24].all() and int(blocked.sum()) == 8 * 4
    assert weight_factor(sites["conv2"], masks).shape == (128, 64, 1, 1)


def train_hat(scenario: str, classes: tuple[int, ...]) -> tuple[Any, Any]:
    benchmark = tiny_images(scenario, classes)
    torch.manual_seed(1)
    model = build_model(benchmark, hidden=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    return benchmark, HAT(model=model, optimizer=optimizer, train_mb_size=8, train_epochs=3, gate_learning_rate=0.01)


def test_hat_blocks_exactly_on_images() -> None:
    benchmark, strategy = train_hat("til", (2, 3, 2))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    first = logits(strategy, benchmark.test_stream[0], 0)
    factors = strategy.masks.factors(1)
    before = {p: p.detach().clone() for p in factors}
    assert len(factors) == 10
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    moved = 0
    for p, factor in factors.items():
        still = (factor == 0).expand_as(p)
        assert torch.equal(p[still], before[p][still]) and still.any()
        moved += int((p[~still] != before[p][~still]).sum())
    assert moved > 100
    strategy.train(benchmark.train_stream[2], eval_streams=[])
    torch.testing.assert_close(logits(strategy, benchmark.test_stream[0], 0), first, atol=1e-6, rtol=0)


def test_hat_learns_images() -> None:
    benchmark, strategy = train_hat("til", (2, 2))
    strategy.train_epochs = 10
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    for task in (0, 1):
        test = benchmark.test_stream[task]
        right = logits(strategy, test, task).argmax(1) == torch.tensor(list(test.dataset.targets))
        assert right.float().mean() > 0.8


def test_models_follow_the_benchmarks_modality() -> None:
    benchmark = tiny_images("dil", (2, 2))
    model = build_model(benchmark, hidden=8)
    assert isinstance(model.backbone, ImageCNN) and not model.task_incremental
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 2)
