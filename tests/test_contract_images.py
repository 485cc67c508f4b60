"""Every strategy that does not need an encoder runs on images; Avalanche's do so in test_avalanche.py, too."""

from __future__ import annotations

import warnings

import pytest
import torch

from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.models import build_model
from nlpcl.registry import strategies
from nlpcl.runs.fit import fit
from nlpcl.runs.run import build_strategy
from nlpcl.training.device import seed_everything
from tests.helpers.contract import small_options
from tests.helpers.images import tiny_images

TRIPLES = [
    pytest.param(
        entry.name,
        backbone,
        scenario,
        marks=[] if backbone == "cnn" and entry.engine else [pytest.mark.full],
    )
    for entry in strategies.entries()
    for backbone in ("cnn", "mlp")
    if entry.backbones is None or backbone in entry.backbones
    for scenario in entry.scenarios
    if scenario != "cil"  # the tasks below share their labels; test_avalanche.py has others
]


@pytest.mark.parametrize(("name", "backbone", "scenario"), TRIPLES)
def test_images(name: str, backbone: str, scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2))
    given = {"benchmark": "femnist", "strategy": name, "scenario": scenario, "train_batch_size": 8}
    given |= {"backbone": backbone, **small_options(name)}
    seed_everything(0)
    model = build_model(benchmark, backbone, hidden=128)
    strategy = build_strategy(resolve(RunSpec.parse(given)), model, torch.device("cpu"), eval_batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = fit(strategy, benchmark, epochs=[3 if name == "acl" else 10] * 2)  # ACL takes five steps a mini-batch
    assert matrix.accuracy[1][1] is not None and matrix.accuracy[1][1] > 0.6
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
