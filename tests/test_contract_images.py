"""Every strategy that does not need an encoder runs on images."""

from __future__ import annotations

import warnings

import pytest
import torch

from nlpcl.experiment import build_strategy, fit
from nlpcl.models import build_model
from nlpcl.registry import strategies
from nlpcl.runtime import seed_everything
from nlpcl.spec import RunSpec
from tests.models.test_image_cnn import tiny_images
from tests.test_contract import MEMORY, SLOW

PAIRS = [
    pytest.param(entry.name, scenario, marks=[pytest.mark.full] if entry.name in SLOW else [])
    for entry in strategies.entries()
    for scenario in entry.scenarios
    if entry.backbones is None or "cnn" in entry.backbones
]


@pytest.mark.parametrize(("name", "scenario"), PAIRS)
def test_images(name: str, scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2))
    given = {"benchmark": "femnist", "strategy": name, "scenario": scenario, "train_batch_size": 8}
    given |= MEMORY if name in ("gem", "agem", "derpp") else {}
    seed_everything(0)
    model = build_model(benchmark, hidden=128)
    strategy = build_strategy(RunSpec.parse(given).filled(), model, torch.device("cpu"), eval_mb_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = fit(strategy, benchmark, epochs=[20, 20])
    assert matrix.accuracy[1][1] is not None and matrix.accuracy[1][1] > 0.6
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
