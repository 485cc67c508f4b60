"""Specs: presets, names, options, and ids that later fields do not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nlpcl.config.presets import preset_for
from nlpcl.config.resolve import FIELD_OPTIONS, check_repeatable, resolve
from nlpcl.config.spec import FIELDS, CompleteSpec, RunSpec, spec_id
from nlpcl.registry import BenchmarkEntry, benchmarks
from tests.helpers.messages import refused


def filled(**given: Any) -> CompleteSpec:
    return resolve(RunSpec.parse(given))


def test_filling_writes_everything_out_and_is_done_once() -> None:
    spec = filled(benchmark="ASC", strategy="CTR")
    assert (spec.benchmark, spec.strategy) == ("asc", "ctr")
    later = {name for name in FIELDS if FIELD_OPTIONS[name].since}
    assert set(spec.model_dump(exclude_unset=True)) == {*FIELDS, "spec_version"} - later
    assert spec.options["lamb"] == 0.75
    assert resolve(spec) is spec


def test_a_stored_spec_is_hashed_as_stored() -> None:
    """One written before a field existed keeps its id, and its own values."""
    stored = filled(strategy="ncl").model_dump(mode="json")
    del stored["clip_norm"]
    stored["options"] = {}
    again = resolve(RunSpec.parse(stored))
    assert again.id == spec_id(stored) != filled(strategy="ncl").id
    assert RunSpec.parse(dict(reversed(list(stored.items())))).id == again.id


def test_presets_and_precedence() -> None:
    bert = filled(benchmark="asc", strategy="hat", model="bert-base-uncased")
    assert bert.learning_rate == 5e-5
    assert bert.backbone_options == {"adapter_size": 2000, "pooling": "pooler", "dropout": 0.1}
    assert (bert.epochs_for("XuSemEval14_rest"), bert.epochs_for("Bing9domains_ipod")) == (10, 30)
    given = filled(benchmark="asc", strategy="hat", learning_rate=0.5, backbone_options={"adapter_size": 7})
    assert given.learning_rate == 0.5
    assert given.backbone_options["adapter_size"] == 7
    assert given.backbone_options["pooling"] == "mean"
    own = preset_for({"benchmark": "b"}, [({"benchmark": "b"}, {"epochs": 77})])
    assert own["epochs"] == 77
    assert filled(strategy="ncl", clip_norm=None).clip_norm is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"strategy": "hatt"}, "hatt hat"),
        ({"strategy": "lwf"}, "lwf avalanche/LwF"),
        ({"benchmark": "ascc"}, "ascc asc"),
        ({"backbone": "bert-adaptr"}, "bert-adaptr bert_adapter"),
        ({"strategy": "ctr", "scenario": "dil"}, "ctr scenario til"),
        ({"strategy": "avalanche/DER"}, "avalanche/DER scenario dil"),
        ({"strategy": "hat", "options": {"lambda": 1}}, "lambda lamb"),
        ({"strategy": "hat", "options": {"lamb": "much"}}, "lamb 1e+12 much"),
        ({"strategy": "avalanche/Naive", "precision": "bf16"}, "avalanche/Naive precision"),
        ({"epoch": 3}, "epoch epochs"),
        ({"epochs": 0}, "epochs 0 1"),
        ({"epochs": 10**300}, "epochs 1,000,000"),
        ({"epochs": {"laptop": 0, "*": 1}}, "epochs laptop 0 1,000,000"),
        ({"epochs": {"labtop": 3, "*": 1}}, "epochs labtop laptop"),
        ({"epochs": {"toys": 3}, "benchmark": "mnist", "scenario": "dil", "strategy": "ncl"}, "epochs toys mnist-0"),
        ({"learning_rate": -1.0}, "learning_rate -1.0 0 1,000"),
        ({"learning_rate": 1e38}, "learning_rate 1,000"),
        ({"weight_decay": 1e38}, "weight_decay 1,000"),
        ({"warmup": 1.5}, "warmup 1.5 0 1"),
        ({"clip_norm": 0}, "clip_norm 0"),
        ({"plateau_factor": 1}, "plateau_factor 1"),
        ({"min_learning_rate": float("inf")}, "min_learning_rate inf"),
        ({"patience": 0}, "patience 0"),
        ({"train_batch_size": 10**12}, "train_batch_size 1,000,000"),
        ({"max_length": 7}, "max_length 7 8 512"),
        ({"precision": "fp64"}, "precision fp64 fp32 tf32 bf16 fp16"),
        ({"order": 5}, "order 0 4"),
        ({"order": "5"}, "order 0 4"),
        ({"order": -1}, "order 0 4"),
        ({"order": []}, "order task"),
        ({"order": ["hotel", "hotel"]}, "order twice"),
        ({"order": ["laptop", "hotle"]}, "hotle hotel"),
        ({"order": "seed:x"}, "seed:7"),
        ({"order": "seed:" + 5000 * "9"}, "seed:7"),
        ({"tasks": 6}, "tasks 1 5"),
        ({"tasks": ["hotle"]}, "hotle hotel"),
        ({"order": ["book"], "benchmark": "dsc"}, "book Books"),
        ({"order": ["1+0"], "benchmark": "SplitMNIST", "strategy": "hat"}, "1+0 0+1 2+3"),
        ({"order": 20, "benchmark": "SplitCIFAR10", "strategy": "hat"}, "order 0 19 20"),
        (
            {"order": ["session-3"], "benchmark": "CORe50", "scenario": "dil", "strategy": "ncl"},
            "session-3",
        ),
        ({"order": 1, "benchmark": "folder"}, "order 0 seed:N"),
        ({"order": [], "benchmark": "folder"}, "order task"),
        ({"train_size": 0}, "train_size 0"),
        ({"spec_version": 99}, "version 99"),
        ({"spec_version": 1}, "options backbone_options"),
        ({"learning_rate": None}, "learning_rate"),
        ({"learning_rate": None, "schedule": "plateau"}, "learning_rate"),
        ({"strategy": "hat", "options": {"lamb": float("nan")}}, "options nan"),
    ],
)
def test_mistakes_are_one_sentence(given: dict[str, Any], words: str) -> None:
    with refused(words):
        filled(**given)


@pytest.mark.parametrize("given", ["0", "00", ["laptop"], "laptop", "seed:7", "seed:07", 3])
def test_an_order_has_one_id_however_it_is_written(given: Any) -> None:
    plain = {"0": 0, "00": 0, "laptop": ["laptop"], "seed:07": "seed:7"}.get(str(given), given)
    spec = filled(strategy="ncl", order=given)
    assert spec.order == plain and spec.id == filled(strategy="ncl", order=plain).id


@pytest.mark.parametrize("entry", benchmarks.entries(), ids=lambda entry: entry.name)
def test_names_known_before_the_data_are_those_of_every_published_order(entry: BenchmarkEntry) -> None:
    if entry.published is None:
        assert entry.name in ("folder", "SplitCIFAR10", "SplitCIFAR100", "SplitTinyImageNet")
        return
    options = {option.name: option.default for option in entry.options.declared().values()}
    for scenario in entry.scenarios:
        for order in (0, entry.orders - 1):
            orders, known = entry.published(scenario=scenario, order=order, tasks=None, **options)
            assert len(orders) == entry.orders
            assert set(orders[order]) <= set(known or orders[0])


def test_a_stream_of_twenty_parts_has_names_of_its_own() -> None:
    given = {"benchmark": "mnist", "scenario": "dil", "strategy": "ncl", "epochs": {"mnist-19": 2, "*": 1}}
    assert filled(**given, tasks=20).epochs_for("mnist-19") == 2
    with refused("epochs mnist-19"):
        filled(**given)


def test_committed_results_keep_their_ids() -> None:
    paths = sorted((Path(__file__).resolve().parents[1] / "leaderboard" / "results").rglob("*.json"))
    assert len(paths) > 10
    for path in paths:
        spec = json.loads(path.read_text(encoding="utf-8"))["spec"]
        anew = {name: value for name, value in spec.items() if name != "spec_version"}
        assert path.stem == spec_id(spec) == RunSpec.parse(spec).id == resolve(RunSpec.parse(anew)).id


def test_epochs_without_an_entry_for_a_task() -> None:
    with refused("epochs b"):
        filled(benchmark="folder", strategy="ncl", epochs={"a": 1}).epochs_for("b")


def test_a_stored_spec_without_a_later_field_is_still_complete() -> None:
    stored = resolve(RunSpec.parse({"strategy": "ncl"})).model_dump(exclude_unset=True)
    del stored["benchmark_options"]
    old = RunSpec.parse(stored)
    assert resolve(old) is old and old.id == spec_id(stored)


def test_settings_that_came_later_are_stored_only_where_they_say_something() -> None:
    plain = resolve(RunSpec.parse({"strategy": "ncl"}))
    assert "patience" not in plain.model_dump(exclude_unset=True)
    assert resolve(RunSpec.parse({"strategy": "ncl", "patience": 5})).id == plain.id
    chosen = resolve(RunSpec.parse({"strategy": "ncl", "patience": 3, "best_epoch": True}))
    assert chosen.id != plain.id and RunSpec.parse(chosen.model_dump(exclude_unset=True)) == chosen


@pytest.mark.parametrize(("rate", "lowest"), [(1e-4, 1e-6), (0.05, 1e-4)])
def test_a_plateau_schedule_can_lower_the_rate(rate: float, lowest: float) -> None:
    spec = resolve(RunSpec.parse({"strategy": "ncl", "schedule": "plateau", "learning_rate": rate}))
    assert spec.min_learning_rate == lowest
    assert RunSpec.parse(spec.model_dump(exclude_unset=True)).id == spec.id
    check_repeatable(spec)
    chosen = RunSpec.parse({"strategy": "ncl", "schedule": "plateau", "learning_rate": rate, "min_learning_rate": 0.01})
    assert resolve(chosen).min_learning_rate == 0.01


@pytest.mark.parametrize(
    ("benchmark", "backbone", "lamb"),
    [("asc", "bert_adapter", 0.5), ("SplitMNIST", "cnn", 0.5), ("SplitMNIST", "mlp", 0.01), ("femnist", "cnn", 0.01)],
)
def test_l2_pulls_less_where_validation_data_say_so(benchmark: str, backbone: str, lamb: float) -> None:
    spec = RunSpec(strategy="l2", benchmark=benchmark, backbone=backbone)
    assert resolve(spec).options["lamb"] == lamb
    assert resolve(spec.model_copy(update={"options": {"lamb": 2.0}})).options["lamb"] == 2.0
