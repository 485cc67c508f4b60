"""What every strategy promises on a backbone, checked by training it on tiny tasks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from nlpcl.config.presets import preset_for
from nlpcl.config.spec import RunSpec
from nlpcl.models import build_model
from nlpcl.records.record import Record
from nlpcl.registry import backbones
from nlpcl.runs import run as experiment
from tests.helpers.images import tiny_images

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
# HAL's 100 steps for each anchor would take longer than all the rest.
ANCHORS = {"options": {**MEMORY["options"], "anchor_steps": 10}}
REPLAY = ("gem", "agem", "derpp", "hal", "acl")
TEXT = [entry.name for entry in backbones.entries() if entry.modality == "text"]


def small_options(name: str) -> dict[str, Any]:
    """Return the options, as a part of a spec, with which a strategy trains on a few tiny tasks."""
    return ANCHORS if name == "hal" else MEMORY if name in REPLAY else {}


def run_tiny(
    name: str, backbone: str, scenario: str, encoder: str, root: Path, monkeypatch: Any, epochs: int = 10
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
            "epochs": epochs,
            **SMALL[backbone],
            **small_options(name),
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


def check_strategy(name: str, backbone: str, scenario: str, encoder: str, root: Path, monkeypatch: Any) -> None:
    """Learns its last task, repeats itself bitwise, moves nothing but what trains, and can be saved and loaded."""
    record, strategy, before = run_tiny(name, backbone, scenario, encoder, root, monkeypatch)
    short = [run_tiny(name, backbone, scenario, encoder, root, monkeypatch, epochs=2)[0] for _ in range(2)]
    assert short[0].model_dump(exclude={"measured"}) == short[1].model_dump(exclude={"measured"})
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
