"""What every registered strategy promises, on every backbone and scenario it declares, with a tiny encoder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch

from nlpcl.config.presets import preset_for
from nlpcl.config.spec import RunSpec
from nlpcl.models import build_model
from nlpcl.options import entry_options
from nlpcl.records.record import Record
from nlpcl.registry import backbones, benchmarks, strategies
from nlpcl.runs import run as experiment
from tests.helpers.messages import refused
from tests.models.test_image_cnn import tiny_images

# Avalanche's SynapticIntelligence walks the module tree several times a step: minutes even on a tiny encoder. The
# others pass an example or a step several times.
SLOW = {f"avalanche/{name}" for name in ("SynapticIntelligence", "GSS_greedy", "MIR", "RWalk", "MER")}
SMALL: dict[str, dict[str, Any]] = {
    "bert": {"learning_rate": 3e-3},
    "bert_adapter": {"learning_rate": 1e-2, "backbone_options": {"adapter_size": 16}},
    "bert_frozen": {"learning_rate": 1e-2, "backbone_options": {"filters": 32, "hidden": 64, "dropout": 0.1}},
    "w2v": {"learning_rate": 1e-2, "backbone_options": {"filters": 32, "hidden": 64, "dropout": 0.1}},
    "w2v_as": {"learning_rate": 1e-2, "backbone_options": {"filters": 32, "hidden": 64, "dropout": 0.1}},
}
# The usual 2 % of 64 examples would be one, and with Adam's steps its class takes its head over.
MEMORY = {"options": {"memory_share": 0.25}}
REPLAY = ("gem", "agem", "derpp", "hal", "acl")
TEXT = [entry.name for entry in backbones.entries() if entry.modality == "text"]
TRIPLES = [
    pytest.param(
        entry.name,
        backbone,
        scenario,
        marks=[pytest.mark.full] if backbone != "bert_adapter" or entry.name in SLOW else [],
    )
    for entry in strategies.entries()
    for backbone in TEXT
    if entry.backbones is None or backbone in entry.backbones
    for scenario in entry.scenarios
    if scenario != "cil"  # a matter of images here: the tasks below share their labels
]


def run_tiny(
    name: str, backbone: str, scenario: str, encoder: str, root: Path, monkeypatch: Any
) -> tuple[Record, Any, dict[str, torch.Tensor]]:
    """The record, the strategy and its model's parameters before training."""
    spec = RunSpec.parse(
        {
            "benchmark": "folder",
            "strategy": name,
            "backbone": backbone,
            "scenario": scenario,
            "model": encoder,
            "max_length": 32,
            "train_batch_size": 8,
            "epochs": 10,
            **SMALL[backbone],
            **(MEMORY if name in REPLAY else {}),
        }
    )
    built: list[Any] = []
    before: dict[str, torch.Tensor] = {}
    build = experiment.build_strategy

    def spy(*args: Any, **kwargs: Any) -> Any:
        strategy = build(*args, **kwargs)
        built.append(strategy)
        before.update({key: p.detach().clone() for key, p in strategy.model.named_parameters()})
        return strategy

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(experiment, "build_strategy", spy)
        warnings.simplefilter("ignore")
        record = experiment.run(spec, data_root=root, out=None, device="cpu", eval_batch_size=32)
    return record, built[0], before


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


def check_strategy(name: str, backbone: str, scenario: str, encoder: str, root: Path, monkeypatch: Any) -> None:
    """Learns its last task, repeats itself bitwise, moves nothing but what trains, and can be saved and loaded."""
    record, strategy, before = run_tiny(name, backbone, scenario, encoder, root, monkeypatch)
    again = run_tiny(name, backbone, scenario, encoder, root, monkeypatch)[0]
    assert record.model_dump(exclude={"measured"}) == again.model_dump(exclude={"measured"})
    last = record.matrices.accuracy[1][1]
    assert last is not None and last > 0.65

    state = strategy.model.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
    check_what_moved(strategy, backbone, before)

    spec = RunSpec.parse(record.spec).model_copy(update={"seed": 1})
    benchmark, untrained = experiment.setup(spec, data_root=root, device=torch.device("cpu"))
    fresh = untrained.model
    fresh.load_state_dict(state)
    strategy.model.eval(), fresh.eval()
    x = torch.stack([benchmark.test_stream[1].dataset[i][0] for i in range(8)])
    task = 1 if scenario == "til" else 0
    with torch.no_grad():
        together = strategy.model(x, task)
        assert torch.equal(together, fresh(x, task))
        alone = torch.cat([strategy.model(x[i : i + 1], task) for i in range(8)])
        mixed = strategy.model(x, torch.arange(8) % 2 * task)
        other = strategy.model(x, 0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1::2], together[1::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[::2], other[::2], atol=1e-5, rtol=0)
    check_kept_bytes(record)


def check_kept_bytes(record: Record) -> None:
    """A second task adds to what is kept per task, to a memory of examples, and to what is held of its head."""
    kept = record.sizes["kept_bytes"]
    assert all(row["parameters"] > 0 for row in kept)
    if len(kept) < 2 or record.spec["strategy"] == "one":
        return
    first, second = kept
    grown = {kind for kind in second if second[kind] > first.get(kind, 0)}
    per_task = {"heads", "gates", "capsules", "attention"} & set(second)
    of_head = {"importance", "anchors"}
    assert per_task <= grown <= per_task | of_head | {"memory", "memory_logits", "hindsight"}
    assert all(second[kind] - first[kind] == second["heads"] - first["heads"] for kind in grown & of_head)


def check_what_moved(strategy: Any, backbone: str, before: dict[str, torch.Tensor]) -> None:
    """The frozen encoder stays as it is, bit for bit; the heads and something of the backbone train."""
    moved = {key for key, p in strategy.model.named_parameters() if key in before and not torch.equal(p, before[key])}
    encoder = {key for key in before if key.startswith("backbone.encoder.model.")}
    own = ("LayerNorm", "dropout.1.")  # LayerNorms, and what stands at the adapters' places
    allowed = {
        "bert": encoder - {key for key in encoder if "pooler" in key},
        "bert_adapter": {key for key in encoder if any(part in key for part in own) and ".embeddings." not in key},
        "bert_frozen": set(),
        "w2v": set(),
        "w2v_as": set(),
    }[backbone]
    assert moved & encoder <= allowed
    assert any(key.startswith("heads.") for key in moved)
    assert any(key.startswith("backbone.") for key in moved)


def own_model(entry: Any, benchmark_of: Any, tiny: str) -> tuple[Any, Any]:
    """Two tiny tasks, and a model for them on a backbone that the strategy takes, with the net it asks for there."""
    backbone = (entry.backbones or ("bert_adapter",))[0]
    scenario = "til" if "til" in entry.scenarios else "dil"
    options: dict[str, Any] = preset_for({"backbone": backbone}, entry.presets).get("backbone_options", {})
    if backbones.get(backbone).modality == "image":
        benchmark = tiny_images(scenario, (2, 2))
        return benchmark, build_model(benchmark, backbone, hidden=32, **options)
    benchmark = benchmark_of(scenario, (2, 2), n=16)
    options |= {"adapter_size": 8} if backbone == "bert_adapter" else {}
    return benchmark, build_model(benchmark, backbone, tiny, **options)


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
def test_constructor(entry: Any, benchmark_of: Any, tiny: str) -> None:
    """Keyword-only, no touching of the caller's plugins, an unknown argument named."""
    model = own_model(entry, benchmark_of, tiny)[1]
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
    others = {name for backbone in backbones.entries() for name in entry_options(backbone)}
    for option in entry_options(entry).values():
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
        for option in entry_options(entry).values()
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
