"""Make a spec complete and check it: `resolve` fills in what names, presets and defaults say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from nlpcl.config.encoders import MINILM, check_hub_name, model_digest
from nlpcl.config.orders import canonical_order, check_names, check_order, order_tasks
from nlpcl.config.presets import Preset, preset_for
from nlpcl.config.spec import FIELDS, OWNERS, SPEC_VERSION, CompleteSpec, RunSpec
from nlpcl.errors import UsageError
from nlpcl.options import Option, check_options, stored_options
from nlpcl.registry import (
    DEFAULT_BACKBONES,
    BackboneEntry,
    BenchmarkEntry,
    StrategyEntry,
    backbones,
    benchmarks,
    check_combination,
    strategies,
)

MOST_LOWERED = 100
"""A plateau schedule divides the learning rate by at most this much, unless the spec says where it ends."""
_TYPES = get_type_hints(RunSpec, include_extras=True)
FIELD_OPTIONS: Mapping[str, Option] = {
    name: Option(name, _TYPES[name], field.default, " ".join((field.description or "").split()))
    for name, field in RunSpec.model_fields.items()
}
"""All fields of a spec as options: type, default and help."""


class Entries(NamedTuple):
    """The registries' entries that a spec names."""

    strategy: StrategyEntry
    backbone: BackboneEntry
    benchmark: BenchmarkEntry


def entries_of(spec: RunSpec) -> Entries:
    """Return the entries of a spec's strategy, backbone and benchmark.

    :raises UsageError: a name is unknown.
    """
    strategy, benchmark = strategies.get(spec.strategy), benchmarks.get(spec.benchmark)
    return Entries(strategy, backbones.get(spec.backbone or DEFAULT_BACKBONES[benchmark.modality]), benchmark)


def resolve(spec: RunSpec, presets: Iterable[Preset] = (), version: int = SPEC_VERSION) -> CompleteSpec:
    """Return the complete spec: canonical names, presets and option defaults written out.

    A complete spec is returned as it is.

    :param presets: more presets, which win over the package's own.
    :param version: leave out what came after this version of the spec.
    :raises UsageError: a name is unknown, an option wrong or the combination impossible.
    """
    strategy, backbone, benchmark = entries = entries_of(spec)
    if isinstance(spec, CompleteSpec):
        if spec.max_length is not None and spec.model is None and not backbone.words:
            raise UsageError(f"a complete spec of backbone {backbone.name} needs model.")
        return spec
    check_combination(strategy, benchmark, backbone, spec.scenario)
    names = {kind: entry.name for kind, entry in entries._asdict().items()}
    chosen = spec.model_dump(exclude_unset=True) | names | {"model": _model(spec, benchmark, backbone)}
    if "model_sha256" not in chosen and (digest := model_digest(chosen["model"], bool(backbone.words))) is not None:
        chosen["model_sha256"] = digest
    defaults = {name: option.default for name, option in FIELD_OPTIONS.items()}
    preset = preset_for({**defaults, **chosen, "modality": benchmark.modality}, (*strategy.presets, *presets))
    values = {**defaults, **preset, **chosen}
    marks = []
    for field, kind in OWNERS.items():
        entry = getattr(entries, kind)
        options = entry.options.declared()
        requested = {**preset.get(field, {}), **(chosen.get(field) or {})}
        values[field] = stored_options(options, check_options(entry.name, options, requested), version)
        marks += [options[name].since for name in values[field]]
    values["order"] = canonical_order(values["order"])
    _check_tasks(benchmark, values)
    for field, facts in FIELDS.items():
        if not strategy.engine and facts.plain and values[field] not in facts.plain:
            setting = f"{field.replace('_', ' ')}: leave it at {facts.plain[0]}"
            raise UsageError(f"{strategy.name} is Avalanche's own class, which knows no {setting}.")
    rate = values["learning_rate"]
    if values["schedule"] == "plateau" and rate is not None and "min_learning_rate" not in preset | chosen:
        values["min_learning_rate"] = min(values["min_learning_rate"], rate / MOST_LOWERED)
    if values["train_size"] is not None and "data_seed" not in preset | chosen:
        values["data_seed"] = values["seed"]
    values = stored_options(FIELD_OPTIONS, values, version)
    marks += [FIELD_OPTIONS[name].since for name in values]
    values["spec_version"] = max([1, *(mark.version for mark in marks if mark is not None)])
    return CompleteSpec.parse(values)


def check_repeatable(spec: CompleteSpec) -> None:
    """Refuse a complete spec that was not made by `resolve`, or not with what is installed here.

    :raises UsageError: resolved once more it would be another, or could not be.
    """
    content = spec.model_dump(exclude={"spec_version"})
    again = resolve(RunSpec.parse(content), version=spec.spec_version)
    stored, resolved = (_parts(each.model_dump(mode="json")) for each in (spec, again))
    for name in {**stored, **resolved}:
        before, now = (parts.get(name, "(absent)") for parts in (stored, resolved))
        if json.dumps(before, sort_keys=True) != json.dumps(now, sort_keys=True):  # 1, 1.0 and True are alike in Python
            difference = f"{name} is {str(before)[:100]} and would be {str(now)[:100]}"
            raise UsageError(f"its spec cannot be repeated here: {difference}.")


def check_epochs(epochs: Mapping[str, int], known: Sequence[str]) -> None:
    """Refuse epochs of a task that the stream does not have.

    :raises UsageError: the first such task, with the nearest names of tasks.
    """
    check_names([name for name in epochs if name != "*"], known, "epochs: ")


def _model(spec: RunSpec, benchmark: BenchmarkEntry, backbone: BackboneEntry) -> str | None:
    if backbone.words:
        if (spec.model or "").lower() == MINILM:
            advice = "name a file of them with --model, or leave it out to train them"
            raise UsageError(f"minilm is an encoder, and {backbone.name} takes word vectors: {advice}.")
        return spec.model
    if benchmark.modality == "text":
        if spec.model is None or spec.model.lower() == MINILM:
            return MINILM
        if spec.model_sha256 is None and not Path(spec.model).expanduser().exists():
            check_hub_name(spec.model)
        return spec.model
    for name, field in FIELDS.items():
        if field.text and getattr(spec, name) is not None:
            raise UsageError(f"{field.flags[0]} is for text, and {benchmark.name} holds images: leave it out.")
    return None


def _parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec, each option as a part of its own."""
    parts: dict[str, Any] = {}
    for name, value in content.items():
        parts |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return parts


def _check_tasks(benchmark: BenchmarkEntry, values: Mapping[str, Any]) -> None:
    """Refuse an order, or names of tasks, that the stream is known not to have before its data are read."""
    order, tasks, epochs = values["order"], values["tasks"], values["epochs"]
    if benchmark.published is None:
        check_order(order, benchmark.orders)
        return
    facts = {"scenario": values["scenario"], "order": order, "tasks": tasks, **values["benchmark_options"]}
    orders, known = benchmark.published(**facts)
    order_tasks(orders, order, tasks, known)
    if isinstance(epochs, dict):
        check_epochs(epochs, known or orders[0])
