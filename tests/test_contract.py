"""What every registered strategy promises, on a tiny encoder."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.experiment import build_strategy, fit
from nlpcl.models import build_model
from nlpcl.options import options_of
from nlpcl.registry import backbones, strategies
from nlpcl.runtime import seed_everything
from nlpcl.spec import RunSpec
from tests.conftest import make_tasks

# Avalanche's SynapticIntelligence walks the module tree several times a step: minutes even on a tiny encoder.
SLOW = {"avalanche/SynapticIntelligence"}
PAIRS = [
    pytest.param(entry.name, scenario, marks=[pytest.mark.full] if entry.name in SLOW else [])
    for entry in strategies.entries()
    for scenario in entry.scenarios
]


def run_tiny(name: str, scenario: str, encoder: str) -> tuple[Any, Any, Any]:
    spec = RunSpec.parse({"strategy": name, "scenario": scenario, "model": encoder, "learning_rate": 1e-2})
    seed_everything(0)
    benchmark = text_benchmark_from_tasks(
        make_tasks((2, 2), flip=scenario == "til"), name="tiny", scenario=scenario, tokenizer=encoder, max_length=32
    )
    model = build_model(benchmark, encoder=encoder, adapter_size=16)
    filled = spec.model_copy(update={"train_batch_size": 8}).filled()
    strategy = build_strategy(filled, model, torch.device("cpu"), eval_mb_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = fit(strategy, benchmark, epochs=[10, 10])
    return strategy, benchmark, matrix


def check_strategy(name: str, scenario: str, encoder: str) -> None:
    """Trains, learns its last task, repeats itself bitwise, and never moves the frozen encoder."""
    strategy, benchmark, matrix = run_tiny(name, scenario, encoder)
    again = run_tiny(name, scenario, encoder)[2]
    assert matrix.accuracy == again.accuracy and matrix.macro_f1 == again.macro_f1
    assert matrix.accuracy[1][1] > 0.6
    fresh = build_model(benchmark, encoder=encoder, adapter_size=16).state_dict()
    state = strategy.model.state_dict()
    for key, value in state.items():
        assert torch.isfinite(value).all(), key
        if "embeddings.word_embeddings" in key or "intermediate.dense" in key or "self.query" in key:
            assert torch.equal(value, fresh[key]), key
    copied = copy.deepcopy(strategy.model)
    copied.load_state_dict(state)
    strategy.model.eval(), copied.eval()
    data = benchmark.test_stream[1].dataset
    x, task = torch.stack([data[i][0] for i in range(8)]), data[0][2]
    with torch.no_grad():
        together = strategy.model(x, task)
        assert torch.equal(together, copied(x, task))
        alone = torch.cat([strategy.model(x[i : i + 1], task) for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "scenario"), PAIRS)
def test_contract(name: str, scenario: str, tiny: str) -> None:
    check_strategy(name, scenario, tiny)


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
def test_constructor(entry: Any, benchmark_of: Any, tiny: str) -> None:
    """Keyword-only, no touching of the caller's plugins, an unknown argument named."""
    benchmark = benchmark_of(entry.scenarios[0], (2, 2))
    model = build_model(benchmark, encoder=tiny, adapter_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plugins: list[Any] = []
    common = {"model": model, "optimizer": optimizer, "criterion": torch.nn.CrossEntropyLoss(), **entry.defaults}
    if entry.engine:
        entry.target(**common, plugins=plugins)
        assert plugins == []
    with pytest.raises(TypeError, match="no_such_argument"):
        entry.target(**common, no_such_argument=1)


@pytest.mark.parametrize("entry", [e for e in strategies.entries() if e.engine], ids=lambda entry: entry.name)
def test_every_option_is_typed_described_and_no_backbone_option(entry: Any) -> None:
    others = {name for backbone in backbones.entries() for name in options_of(backbone.target)}
    for option in options_of(entry.target, entry.defaults).values():
        assert option.help, option.name
        assert option.annotation is not Any, option.name
        assert option.name not in others
