"""What every registered strategy promises, on every backbone and scenario it declares, with a tiny encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch

from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.registry import backbones, benchmarks, strategies
from nlpcl.runs.fit import fit
from nlpcl.strategies.ncl import NCL
from nlpcl.training.device import seed_everything
from nlpcl.training.plugin import Plugin
from tests.helpers.contract import SLOW, TEXT, check_strategy, own_model, small_options
from tests.helpers.messages import refused
from tests.helpers.state import Undeclared


def often(entry: Any, backbone: str, scenario: str) -> bool:
    """On adapters; Avalanche's own in one scenario, as test_avalanche.py has the others. The rest is for `-m full`."""
    other = not entry.engine and scenario != entry.scenarios[0]
    return backbone == "bert_adapter" and entry.name not in SLOW and not other


TRIPLES = [
    pytest.param(
        entry.name,
        backbone,
        scenario,
        marks=[] if often(entry, backbone, scenario) else [pytest.mark.full],
    )
    for entry in strategies.entries()
    for backbone in TEXT
    if entry.backbones is None or backbone in entry.backbones
    for scenario in entry.scenarios
    if scenario != "cil"  # a matter of images here: the tasks below share their labels
]


@pytest.mark.parametrize(("name", "backbone", "scenario"), TRIPLES)
def test_contract(
    name: str,
    backbone: str,
    scenario: str,
    models: dict[str, str],
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_strategy(name, backbone, scenario, models[backbone], folders[scenario], monkeypatch)


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
def test_constructor(entry: Any, benchmark_of: Any, tiny: str) -> None:
    """Keyword-only, no touching of the caller's plugins, an unknown argument named."""
    model = own_model(entry, benchmark_of, tiny)[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plugins: list[Any] = []
    common = {"model": model, "optimizer": optimizer, "criterion": torch.nn.CrossEntropyLoss(), **dict(entry.options())}
    if entry.engine:
        entry.target(**common, plugins=plugins)
        assert plugins == []
    with pytest.raises(UsageError if entry.engine else TypeError, match="no_such_argument"):
        entry.target(**{**common, "model": own_model(entry, benchmark_of, tiny)[1]}, no_such_argument=1)


@pytest.mark.parametrize("entry", [e for e in strategies.entries() if e.engine], ids=lambda entry: entry.name)
def test_every_option_is_typed_described_and_no_backbone_option(entry: Any) -> None:
    others = {name for backbone in backbones.entries() for name in backbone.options.declared()}
    for option in entry.options.declared().values():
        assert option.help, option.name
        assert option.annotation is not Any, option.name
        assert option.name not in others


def numbers_in(annotation: Any) -> list[Any]:
    """The numbers that a type is made of, each with its range if it has one."""
    parts = get_args(annotation)
    if annotation in (int, float) or (get_origin(annotation) is Annotated and parts[0] in (int, float)):
        return [annotation]
    return [] if get_origin(annotation) is Literal else [n for part in parts for n in numbers_in(part)]


@pytest.mark.parametrize("registry", [strategies, backbones, benchmarks], ids=lambda registry: registry.kind)
def test_every_number_has_a_range_and_what_is_outside_is_refused(registry: Any) -> None:
    found = [
        (f"{entry.name} {option.name}", option, numbers_in(option.annotation))
        for entry in registry.entries()
        for option in entry.options.declared().values()
    ]
    assert [name for name, option, _ in found if option.annotation is Any] == []
    for name, option, numbers in found:
        assert option.check(option.default) == option.default, name
        lowest, highest = [], []
        for number in numbers:
            bounds = [mark for field in get_args(number)[1:] for mark in getattr(field, "metadata", ())]
            low = [getattr(mark, side) for mark in bounds for side in ("ge", "gt") if hasattr(mark, side)]
            high = [getattr(mark, side) for mark in bounds for side in ("le", "lt") if hasattr(mark, side)]
            assert len(low) == len(high) == 1, f"{name} needs a range: see nlpcl.ranges"
            lowest += low
            highest += high
        if numbers:
            outside = (min(lowest) - 1, 2 * max(highest) + 1, float("nan"), float("inf"), -float("inf"), 10**400)
            for wrong in outside:
                with refused(option.name):
                    option.check(wrong)


OURS = [entry.name for entry in strategies.entries() if entry.engine]
WITH_PARITY = [pytest.param(name, True, marks=[] if name in ("hat", "owm") else [pytest.mark.full]) for name in OURS]


@pytest.mark.parametrize(("name", "parity"), [*((name, False) for name in OURS), *WITH_PARITY])
def test_what_changes_in_training_is_declared(name: str, parity: bool, benchmark_of: Any, tiny: str) -> None:
    """An attribute that no checkpoint saves is after two tasks as in a strategy that was just built."""
    entry = strategies.get(name)

    def build() -> tuple[Any, Any]:
        seed_everything(0)
        benchmark, model = own_model(entry, benchmark_of, tiny)
        options = {"parity": parity, **small_options(name).get("options", {})}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        return benchmark, entry.target(model=model, optimizer=optimizer, train_mb_size=8, best_epoch=True, **options)

    benchmark, strategy = build()
    fit(strategy, benchmark, epochs=[1, 1])
    assert Undeclared(strategy, build()[1]).found == []


def test_what_is_not_declared_is_found(benchmark_of: Any, tiny: str) -> None:
    class Forgetful(Plugin):
        state = ("kept",)

        def __init__(self) -> None:
            super().__init__()
            self.kept = self.lost = 0
            self.tensors: dict[str, torch.Tensor] = {}
            self.generator = torch.Generator()
            self.net = torch.nn.Linear(2, 2)

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            self.kept += 1
            self.lost += 1
            self.tensors["loss"] = strategy.loss.detach()
            torch.rand(1, generator=self.generator)
            torch.nn.init.constant_(self.net.bias, self.kept)
            strategy.model.forgotten = strategy.model.heads  # type: ignore[assignment]
            strategy.model.steps = self.kept

    def build() -> tuple[Any, Any]:
        benchmark = benchmark_of("til", (2, 2), n=16)
        model = build_model(benchmark, "bert_adapter", tiny, adapter_size=8)
        optimizer = torch.optim.AdamW(model.parameters())
        return benchmark, NCL(model=model, optimizer=optimizer, plugins=[Forgetful()])

    benchmark, strategy = build()
    fit(strategy, benchmark)
    found = Undeclared(strategy, build()[1]).found
    assert sorted(found) == [
        "ContinualModel.steps",
        "Forgetful.generator",
        "Forgetful.lost",
        "Forgetful.net",
        "Forgetful.tensors",
    ]
