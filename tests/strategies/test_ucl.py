"""UCL: the regulariser against plain loops, the scaling of the loss, what trains and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training import Naive
from torch import nn

from nlpcl.models import Backbone, ContinualModel, ImageCNN, TaskHeads, build_model
from nlpcl.models.base import unprotected
from nlpcl.strategies.ucl import UCL, Bayesian, UCLPlugin, start_of_task, strengths, ucl_penalty
from tests.helpers.plugins import plugin_of

FILTERS = 4
OPTIONS: dict[str, dict[str, int]] = {
    "bert_adapter": {"adapter_size": 8},
    "bert": {},
    "bert_frozen": {"filters": FILTERS, "layers": 2, "hidden": 6},
    "cnn": {},
}


def unit_behind(backbone: str, site: str, column: int) -> tuple[str, int] | None:
    """Which unit makes the input of a column, written down for each backbone by hand."""
    block, _, layer = site.partition(".")
    if backbone == "bert_adapter":
        return (f"{block}.down", column) if layer == "up" else None
    if backbone == "bert":
        return (f"{block}.inner", column) if layer == "outer" else None
    if site == "fc1":
        if backbone == "cnn":
            return "conv3", column // 4  # 2 x 2 pixels of each feature map
        return f"conv{3 + column // FILTERS}", column % FILTERS
    before = {"fc2": "fc1"} | ({"conv2": "conv1", "conv3": "conv2"} if backbone == "cnn" else {})
    return (before[site], column) if site in before else None


def make_model(name: str, benchmark_of: Any, tiny: str) -> ContinualModel:
    torch.manual_seed(0)
    if name == "cnn":
        backbone: Backbone = ImageCNN((3, 32, 32), hidden=8)
        return ContinualModel(backbone, TaskHeads(8, [2, 2]))
    return build_model(benchmark_of("til", (2, 2)), backbone=name, encoder=tiny, **OPTIONS[name])


def randomise(plugin: UCLPlugin) -> None:
    with torch.no_grad():
        for site in plugin.sites:
            for p in site.module.parameters():
                p.normal_()


def values(plugin: UCLPlugin) -> dict[str, Any]:
    """For each site lists mu[i][j][k], b[i], sigma[i] and the number s0."""
    found = {}
    for site in plugin.sites:
        layer: Any = site.module
        mu = layer.weight.flatten(2) if layer.weight.dim() > 2 else layer.weight.unsqueeze(2)
        sigma = torch.log(1 + torch.exp(layer.rho))
        found[site.name] = (mu.tolist(), layer.bias.tolist(), sigma.tolist(), float(layer.initial_sigma))
    return found


def penalty_in_loops(
    now: dict[str, Any], old: dict[str, Any], behind: Callable[[str, int], Any], alpha: float, beta: float, first: bool
) -> float:
    quadratic = absolute = spread = 0.0
    for layer, (mu, bias, sigma, s0) in now.items():
        old_mu, old_bias, old_sigma, _ = old[layer]
        for i in range(len(mu)):
            own = s0 / old_sigma[i]
            for j in range(len(mu[i])):
                source = behind(layer, j)
                strength = own if source is None else max(own, old[source[0]][3] / old[source[0]][2][source[1]])
                for k in range(len(mu[i][j])):
                    moved = mu[i][j][k] - old_mu[i][j][k]
                    quadratic += (strength * moved) ** 2
                    absolute += s0**2 * abs((old_mu[i][j][k] / old_sigma[i]) ** 2 * moved)
            moved = bias[i] - old_bias[i]
            quadratic += (own * moved) ** 2
            absolute += s0**2 * abs((old_bias[i] / old_sigma[i]) ** 2 * moved)
            r = sigma[i] ** 2 / old_sigma[i] ** 2
            spread += r - log(r) + sigma[i] ** 2 - log(sigma[i] ** 2)
    return (alpha if first else 1) / 2 * quadratic + (0 if first else absolute) + beta / 2 * spread


@pytest.mark.parametrize("name", OPTIONS)
def test_the_regulariser_is_the_equation_and_reaches_every_site(name: str, benchmark_of: Any, tiny: str) -> None:
    model = make_model(name, benchmark_of, tiny)
    plugin = UCLPlugin(model)
    model.double()
    assert len(plugin.sites) == {"bert_adapter": 8, "bert": 6, "bert_frozen": 5, "cnn": 5}[name]
    assert all(isinstance(site.module, Bayesian) for site in model.backbone.sites())
    randomise(plugin)
    old, starts = values(plugin), start_of_task(plugin.sites)
    randomise(plugin)
    now = values(plugin)
    for first in (True, False):
        penalty = ucl_penalty(plugin.sites, starts, alpha=5.0, beta=0.3, first=first)
        wanted = penalty_in_loops(now, old, lambda site, j: unit_behind(name, site, j), 5.0, 0.3, first)
        assert penalty.item() == pytest.approx(wanted, rel=1e-6)
        model.zero_grad()
        penalty.backward()
        for site in plugin.sites:
            layer: Any = site.module
            assert all(bool((p.grad != 0).all()) for p in (layer.weight, layer.bias, layer.rho)), site.name
        others = {id(p) for site in plugin.sites for p in site.module.parameters()}
        assert all(p.grad is None for p in model.parameters() if id(p) not in others)


def test_in_the_first_task_every_strength_is_one_and_nothing_pulls_at_the_start(benchmark_of: Any, tiny: str) -> None:
    plugin = UCLPlugin(make_model("bert_frozen", benchmark_of, tiny))
    for weight, bias in strengths(plugin.sites).values():
        torch.testing.assert_close(weight, torch.ones_like(weight))
        torch.testing.assert_close(bias, torch.ones_like(bias))
    penalty = ucl_penalty(plugin.sites, start_of_task(plugin.sites), alpha=5.0, beta=1.0, first=True)
    penalty.backward()
    for site in plugin.sites:
        layer: Any = site.module
        assert not layer.weight.grad.any() and not layer.bias.grad.any()


@pytest.mark.parametrize("parity", [False, True])
def test_scaling_of_the_loss(parity: bool, benchmark_of: Any, tiny: str) -> None:
    plugin = UCLPlugin(make_model("bert_adapter", benchmark_of, tiny), parity=parity)
    data = SimpleNamespace(dataset=range(200))
    clock = SimpleNamespace(train_exp_counter=1)
    strategy = SimpleNamespace(loss=torch.tensor(0.7), mb_y=torch.zeros(8), experience=data, clock=clock)
    plugin.before_train_dataset_adaptation(strategy)
    plugin.before_training_exp(strategy)
    randomise(plugin)
    penalty = ucl_penalty(plugin.sites, plugin.starts, alpha=5.0, beta=0.002, first=False)
    plugin.before_backward(strategy)
    torch.testing.assert_close(strategy.loss, (0.7 + penalty) / 8 if parity else 0.7 + penalty / 200)


@pytest.mark.parametrize("name", ["bert_adapter", "bert"])
def test_a_pretrained_encoder_computes_the_same_at_test(name: str, benchmark_of: Any, tiny: str) -> None:
    model = make_model(name, benchmark_of, tiny).eval()
    data = benchmark_of("til", (2, 2)).test_stream[0].dataset
    x = torch.stack([data[i][0] for i in range(8)])
    before = model(x, 0)
    UCLPlugin(model)
    assert torch.equal(model(x, 0), before)
    model.train()
    model.backbone.dropout.eval(), model.backbone.encoder.eval()
    assert torch.equal(model(x, 0), before)
    for site in model.backbone.sites():
        site.module.train()
    assert not torch.allclose(model(x, 0), before)


def build(benchmark: Any, tiny: str, backbone: str = "bert_adapter", **options: Any) -> UCL:
    torch.manual_seed(1)
    model = build_model(benchmark, backbone=backbone, encoder=tiny, **OPTIONS[backbone])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    return UCL(model=model, optimizer=optimizer, train_mb_size=8, **options)


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_what_trains_and_what_is_kept(scenario: str, parity: bool, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of(scenario, (2, 2), n=24)
    strategy = build(benchmark, tiny, parity=parity)
    plugin, model = plugin_of(strategy, UCLPlugin), strategy.model
    rhos = {id(site.module.rho) for site in plugin.sites}  # type: ignore[union-attr]
    for task, experience in enumerate(benchmark.train_stream):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        strategy.train(experience, eval_streams=[])
        for site in plugin.sites:
            path = next(name for name, module in model.named_modules() if module is site.module)
            start, layer = plugin.starts[site.name], site.module
            assert torch.equal(start.weight, before[f"{path}.weight"]) and not torch.equal(start.weight, layer.weight)  # type: ignore[arg-type]
            assert torch.equal(start.bias, before[f"{path}.bias"])
            assert not torch.equal(before[f"{path}.rho"], layer.rho)  # type: ignore[arg-type]
        own = [group for group in strategy.optimizer.param_groups if {id(p) for p in group["params"]} & rhos]
        assert [(group["initial_lr"], group["weight_decay"], len(group["params"])) for group in own] == [
            (0.01, 0, len(rhos))
        ]
        assert bool(unprotected(model.backbone)) == (parity or task == 0)
        assert all(p.requires_grad for p in model.heads.parameters())  # type: ignore[union-attr]
    per_adapter = 2 * 32 * 8 + 2 * (8 + 32)
    assert strategy.kept_bytes(2)["previous_weights"] == 4 * 4 * per_adapter


@pytest.mark.parametrize("backbone", ["bert_adapter", "bert_frozen"])
def test_a_state_dict_carries_everything(backbone: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), n=24)
    strategy = build(benchmark, tiny, backbone)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    torch.manual_seed(9)
    fresh = build_model(benchmark, backbone=backbone, encoder=tiny, **OPTIONS[backbone])
    plugin = UCLPlugin(fresh)
    fresh.load_state_dict(strategy.model.state_dict())
    data = benchmark.test_stream[0].dataset
    x = torch.stack([data[i][0] for i in range(8)])
    assert torch.equal(fresh.eval()(x, 0), strategy.model.eval()(x, 0))
    starts, others = start_of_task(plugin.sites), start_of_task(plugin_of(strategy, UCLPlugin).sites)
    for name, start in starts.items():
        assert all(torch.equal(a, b) for a, b in zip(start.strengths, others[name].strengths, strict=True))


def test_plugin_holds_the_weights_under_avalanches_own_naive(benchmark_of: Any, tiny: str) -> None:
    """The larger the regulariser, the less the second task moves the weights."""
    moved = []
    for factor in (0.0, 1.0):
        benchmark = benchmark_of("til", (2, 2), n=24)
        torch.manual_seed(1)
        model = build_model(benchmark, encoder=tiny, adapter_size=8)
        plugin = UCLPlugin(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        how: dict[str, Any] = {"train_mb_size": 8, "train_epochs": 3, "evaluator": None}
        strategy = Naive(model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), plugins=[plugin], **how)
        strategy.train(benchmark.train_stream[0], eval_streams=[])
        before = {site.name: site.module.weight.detach().clone() for site in plugin.sites}  # type: ignore[union-attr,operator]
        if not factor:
            plugin.before_backward = lambda strategy, **kwargs: None  # type: ignore[method-assign]
        strategy.train(benchmark.train_stream[1], eval_streams=[])
        now = {site.name: site.module.weight.detach() for site in plugin.sites}  # type: ignore[union-attr,operator]
        moved.append(sum(float((now[name] - start).square().sum()) for name, start in before.items()))
    assert 0 < moved[1] < moved[0]


def test_ucl_needs_our_model() -> None:
    linear = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="UCL"):
        UCL(model=linear, optimizer=torch.optim.SGD(linear.parameters(), lr=0.1))
