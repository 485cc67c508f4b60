"""What is to be run, nothing else: `RunSpec` and its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nlpcl.config.encoders import MINILM, model_digest
from nlpcl.config.orders import canonical_order, check_names, check_order, order_tasks
from nlpcl.config.presets import Preset, preset_for
from nlpcl.errors import UsageError, suggest
from nlpcl.options import Option, check_options, entry_options, stored_options
from nlpcl.ranges import Count, Digest, Examples, LearningRate, Positive, Rate, Seed, Share, Since, in_words, since
from nlpcl.registry import (
    BackboneEntry,
    BenchmarkEntry,
    StrategyEntry,
    backbones,
    benchmarks,
    check_combination,
    default_backbone,
    strategies,
)

SPEC_VERSION = 2
# What a complete spec cannot leave open. A field added later is marked with `Since` and has a default instead.
NEEDED = (
    *("options", "backbone_options", "epochs", "train_batch_size", "learning_rate"),
    *("weight_decay", "schedule", "warmup", "precision", "eval", "backbone"),
)
# Settings of training that `--set` reaches, too.
SETTINGS = (
    *("learning_rate", "weight_decay", "schedule", "warmup", "clip_norm"),
    *("best_epoch", "patience", "plateau_factor", "min_learning_rate"),
)
# Today's name by first name: of a field, or `owner.option` of an option. Ids are hashed of first names, so they stay.
RENAMED: Mapping[str, str] = MappingProxyType({})
OWNERS = {"options": "strategy", "backbone_options": "backbone", "benchmark_options": "benchmark"}
LOWEST = 100  # by how much a plateau schedule may divide the rate, unless told otherwise
# Of these a spec has all, on text, or none; but without `model` a backbone of word vectors trains its own.
OF_TEXT = ("model", "max_length", "padding")


class RunSpec(BaseModel):
    """A run. Fields left out are filled from presets by `filled`; where it runs is no part of it.

    :ivar benchmark: name of the benchmark; `benchmark_options` are its own.
    :ivar scenario: `til` (task-incremental), `dil` (domain-incremental) or `cil` (class-incremental).
    :ivar order: number of a published order, `seed:N` for a random one, or the names of the tasks.
    :ivar tasks: only the first so many tasks, or those with these names.
    :ivar train_size: at most so many training examples per task.
    :ivar strategy: name of the strategy; `options` are its own.
    :ivar backbone: name of the backbone (`bert_adapter` for text, `cnn` for images); `backbone_options` are its own.
    :ivar model: the encoder of text: `minilm`, a local folder or a hub name; of backbones `w2v` and `w2v_as` the file
        of word vectors, and if there is none, vectors are trained on the first task's training text.
    :ivar epochs: of every task, or by task name with `*` for the rest.
    :ivar schedule: of the learning rate within a task; `plateau` and `best_epoch`, with `patience`, `plateau_factor`
        and `min_learning_rate` (by default 1e-4, or a hundredth of `learning_rate` where that is less), look at the
        task's validation data: see `ContinualStrategy`.
    :ivar precision: `tf32` is fp32 with the GPU's faster products of matrices; on a CPU the two are the same.
    :ivar eval: after each task test on those `seen`, on all (`full`), or once at the end (`final`).
    :ivar data_seed: seed of what is drawn from the data: the subset of `train_size`, and validation parts that a stream
        draws; by default `seed` where there is a `train_size`, else 0. In records of version 1 it is always 0.
    :ivar data_sha256: digest of own data, set by `nlpcl.runs.identity.identified`.
    :ivar model_sha256: digest of an encoder in a local folder, or of a file of word vectors, set by `filled`. The id is
        then of the digest and not of the path in `model`.
    :ivar spec_version: set by `filled`; a spec that has it is complete and never filled again. It is the oldest version
        that has all of its fields and options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    benchmark: str = "demo"
    benchmark_options: dict[str, Any] | None = None
    scenario: Literal["til", "dil", "cil"] = "til"
    order: int | str | list[str] = 0
    tasks: Count | list[str] | None = None
    train_size: Examples | None = None
    strategy: str = "ctr"
    options: dict[str, Any] | None = None
    backbone: str | None = None
    model: str | None = None
    backbone_options: dict[str, Any] | None = None
    max_length: Annotated[int, Field(ge=8, le=512)] | None = None
    padding: Literal["dynamic", "fixed"] | None = None
    epochs: Count | dict[str, Count] | None = None
    train_batch_size: Count | None = None
    learning_rate: LearningRate | None = None
    weight_decay: Rate | None = None
    schedule: Literal["linear", "constant", "plateau"] | None = None
    warmup: Share | None = None
    clip_norm: Positive | None = None
    best_epoch: Annotated[bool, Since(1)] = False
    patience: Annotated[Count, Since(1)] = 5
    plateau_factor: Annotated[float, Field(gt=1, le=1e6), Since(1)] = 3.0
    min_learning_rate: Annotated[Rate, Since(1)] = 1e-4
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None
    eval: Literal["seen", "full", "final"] | None = None
    seed: Seed = 0
    data_seed: Annotated[Seed, Since(2)] = 0
    data_sha256: Annotated[Digest | None, Since(2)] = None
    model_sha256: Annotated[Digest | None, Since(2)] = None
    spec_version: Count | None = None

    @field_validator("options", "backbone_options", "benchmark_options")
    @classmethod
    def _finite(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            json.dumps(options, allow_nan=False, default=str)
        except ValueError as error:
            raise ValueError("numbers must be finite") from error
        return options

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> RunSpec:
        """A spec from a mapping.

        :raises UsageError: an unknown field, a value out of range, or a spec of a newer version.
        """
        given = _with_names(given, RENAMED)
        for name in given:
            if name not in cls.model_fields:
                raise UsageError(f"a spec has no field {name!r}. {suggest(name, cls.model_fields)}")
        try:
            spec = cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            ours = first["type"] == "value_error"
            why = first["ctx"]["error"] if ours else f"it takes {in_words(_types()[name])}"
            raise UsageError(f"{name} cannot be {given.get(name)!r}: {why}.") from error
        if (spec.spec_version or 0) > SPEC_VERSION:
            raise UsageError(f"this spec has version {spec.spec_version}, newer than {SPEC_VERSION}: update nlpcl.")
        text = OF_TEXT if any(getattr(spec, name) is not None for name in OF_TEXT) else ()
        missing = [name for name in (*NEEDED, *text) if getattr(spec, name) is None]
        if missing == ["model"] and backbones.get(str(spec.backbone)).words:
            missing = []
        if spec.spec_version is not None and missing:
            raise UsageError(f"a complete spec needs {' and '.join(missing)}.")
        return spec

    def filled(self, presets: Iterable[Preset] = (), version: int = SPEC_VERSION) -> RunSpec:
        """Return the complete spec: canonical names, presets and option defaults written out.

        :param presets: more of them, which win over the package's own.
        :param version: leave out what came after this version of the spec.
        :raises UsageError: a name is unknown, an option wrong or the combination impossible.
        """
        if self.spec_version is not None:
            return self
        strategy, benchmark = strategies.get(self.strategy), benchmarks.get(self.benchmark)
        backbone = backbones.get(self.backbone or default_backbone(benchmark.name))
        check_combination(strategy, benchmark, backbone, self.scenario)
        given = self.model_dump(exclude_unset=True)
        given |= {"strategy": strategy.name, "benchmark": benchmark.name, "backbone": backbone.name}
        given["model"] = self._model(benchmark, backbone)
        if "model_sha256" not in given and (digest := model_digest(given["model"], bool(backbone.words))) is not None:
            given["model_sha256"] = digest
        preset = preset_for(
            {**self.model_dump(), **given, "modality": benchmark.modality}, (*strategy.presets, *presets)
        )
        values = {**{name: getattr(self, name) for name in RunSpec.model_fields}, **preset, **given}
        own: dict[str, StrategyEntry | BackboneEntry | BenchmarkEntry] = {
            "options": strategy,
            "backbone_options": backbone,
            "benchmark_options": benchmark,
        }
        for field, entry in own.items():
            chosen = {**preset.get(field, {}), **(given.get(field) or {})}
            options = entry_options(entry)
            values[field] = stored_options(options, check_options(entry.name, options, chosen), version)
        values["order"] = canonical_order(values["order"])
        _check_tasks(benchmark, values)
        if not strategy.engine:
            _only_plain(strategy.name, values)
        rate = values["learning_rate"]
        if values["schedule"] == "plateau" and rate is not None and "min_learning_rate" not in preset | given:
            values["min_learning_rate"] = min(values["min_learning_rate"], rate / LOWEST)
        if values["train_size"] is not None and "data_seed" not in preset | given:
            values["data_seed"] = values["seed"]
        values = {name: value for name, value in values.items() if _is_stored(name, value, version)}
        return RunSpec.parse({**values, "spec_version": _version(values, own)})

    def check(self) -> None:
        """Refuse a complete spec that was not made by `filled`, or not with what is installed here.

        :raises UsageError: filled once more it would be another, or could not be.
        """
        version = self.spec_version or SPEC_VERSION
        again = RunSpec.parse(self.model_dump(exclude={"spec_version"})).filled(version=version)
        mine, other = _parts(self.model_dump(mode="json")), _parts(again.model_dump(mode="json"))
        for name in {**mine, **other}:
            here, there = (parts.get(name, "(absent)") for parts in (mine, other))
            if here != there:
                told = f"{name} is {str(here)[:100]} and would be {str(there)[:100]}"
                raise UsageError(f"its spec cannot be repeated here: {told}.")

    def _model(self, benchmark: BenchmarkEntry, backbone: BackboneEntry) -> str | None:
        if backbone.words:
            if (self.model or "").lower() == "minilm":
                raise UsageError(
                    f"minilm is an encoder, and {backbone.name} takes word vectors: name a file of them with --model, "
                    "or leave it out to train them."
                )
            return self.model
        if benchmark.modality == "text":
            return MINILM if self.model is None or self.model.lower() == MINILM else self.model
        for name in OF_TEXT:
            if getattr(self, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} is for text, and {benchmark.name} holds images: leave it out.")
        return None

    @property
    def id(self) -> str:
        """Hash of the spec as it stands."""
        return spec_id(self.model_dump(mode="json", exclude_unset=True))

    def epochs_for(self, task: str) -> int:
        """Number of epochs of a task.

        :raises UsageError: `epochs` names neither the task nor `*`.
        """
        if isinstance(self.epochs, dict):
            number = self.epochs.get(task, self.epochs.get("*"))
            if number is None:
                raise UsageError(f"epochs has no entry for task {task!r} and none for '*'.")
            return number
        assert self.epochs is not None
        return self.epochs


def training_settings() -> dict[str, Option]:
    """The settings of training, as options that a text can set."""
    hints = _types()
    return {name: Option(name, hints[name], RunSpec.model_fields[name].default, "") for name in SETTINGS}


def _parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec, of its options each by itself."""
    parts: dict[str, Any] = {}
    for name, value in content.items():
        parts |= {f"{name}.{key}": own for key, own in value.items()} if isinstance(value, dict) else {name: value}
    return parts


def spec_id(stored: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a complete spec's canonical JSON.

    A stored spec is hashed as stored, so a field added to `RunSpec` later changes no old id. Of an encoder in a local
    folder the digest is hashed and not the path, so that it may lie elsewhere, or be spelled otherwise.
    """
    first = _with_names(stored, {today: name for name, today in RENAMED.items()})
    hashed = {name: value for name, value in first.items() if name != "model" or first.get("model_sha256") is None}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_names(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The content of a spec with other names of its fields, and of the options in them."""
    renamed = {}
    for field, value in content.items():
        if field in OWNERS and isinstance(value, Mapping):
            owner = f"{content.get(OWNERS[field])}."
            value = {names.get(f"{owner}{n}", f"{owner}{n}").removeprefix(owner): v for n, v in value.items()}
        renamed[names.get(field, field)] = value
    return renamed


def check_epochs(epochs: Mapping[str, int], known: Sequence[str]) -> None:
    """Refuse epochs of a task that there is not.

    :raises UsageError: the first such task, with the nearest that there are.
    """
    check_names([name for name in epochs if name != "*"], known, "epochs: ")


def _is_stored(name: str, value: Any, version: int) -> bool:
    """Whether a spec of this version stores a field: not a newer one, nor a later one that says nothing."""
    field = RunSpec.model_fields[name]
    mark = since(field.metadata)
    return mark is None or (value != field.default and mark.version <= version)


def _version(values: Mapping[str, Any], owners: Mapping[str, Any]) -> int:
    """The oldest version of the spec that has all these fields and options."""
    fields = [since(RunSpec.model_fields[name].metadata) for name in values]
    options = [entry_options(entry)[name].since for field, entry in owners.items() for name in values[field]]
    return max([1, *(mark.version for mark in (*fields, *options) if mark is not None)])


def _types() -> dict[str, Any]:
    return get_type_hints(RunSpec, include_extras=True)


def _check_tasks(benchmark: BenchmarkEntry, values: Mapping[str, Any]) -> None:
    """Refuse an order, or names of tasks, that the stream is known not to have before its data are read."""
    order, tasks, epochs = values["order"], values["tasks"], values["epochs"]
    if benchmark.published is None:
        check_order(order, benchmark.orders)
        return
    asked = {"scenario": values["scenario"], "order": order, "tasks": tasks, **values["benchmark_options"]}
    orders, known = benchmark.published(**asked)
    order_tasks(orders, order, tasks, known)
    if isinstance(epochs, dict):
        check_epochs(epochs, known or orders[0])


def _only_plain(name: str, values: Mapping[str, Any]) -> None:
    fixed = {"precision": "fp32", "schedule": "constant", "clip_norm": None, "best_epoch": False}
    for field, value in fixed.items():
        if values[field] != value:
            raise UsageError(
                f"{name} is Avalanche's own class, which knows no {field.replace('_', ' ')}: leave it at {value}."
            )
