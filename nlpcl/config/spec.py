"""Describe one run: `RunSpec`, the complete spec that `resolve` makes of it, and its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nlpcl.errors import UsageError, check_known
from nlpcl.ranges import Count, Digest, Examples, LearningRate, Positive, Rate, Seed, Share, Since, in_words

SPEC_VERSION = 2
# Today's name by first name: of a field, or `owner.option` of an option. Ids are hashed of first names, so they stay.
RENAMED: Mapping[str, str] = MappingProxyType({})

Scenario = Literal["til", "dil", "cil"]
SCENARIOS: dict[str, str] = {"til": "task-incremental", "dil": "domain-incremental", "cil": "class-incremental"}
_Schedule = Literal["linear", "constant", "plateau"]
_Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_Tokens = Annotated[int, Field(ge=8, le=512)]
_Tested = Literal["seen", "full", "final"]
_Spec = TypeVar("_Spec", bound="RunSpec")


@dataclass(frozen=True, kw_only=True)
class SpecField:
    """The facts of a field of `RunSpec` beside its type, range, default and help.

    Every list of fields in the package is made from these, so a new field is declared in one place.

    :param flags: its options of `nlpcl run`, `sweep` and `tune`, the one in messages first; empty if it has none.
    :param read: makes a value of an option's text.
    :param settable: whether `--set` reaches the field, as a setting of training.
    :param engine: whether `ContinualStrategy` takes it as an argument.
    :param plain: the values that Avalanche's own strategies, which are no `ContinualStrategy`, accept; empty means all.
    :param cost: whether a run's seconds say nothing of a run with another value.
    :param compared: whether runs that are compared must agree in the field (`protocol`), each method has its own value
        (`method`), or runs are paired by it (`block`).
    :param text: whether runs on text have it and others do not.
    :param options_of: the field that names the strategy, backbone or benchmark whose options this one holds.
    """

    flags: tuple[str, ...] = ()
    read: Callable[[str], Any] = str
    settable: bool = False
    engine: bool = False
    plain: tuple[Any, ...] = ()
    cost: bool = False
    compared: Literal["protocol", "method", "block"] = "protocol"
    text: bool = False
    options_of: Literal["strategy", "backbone", "benchmark"] | None = None


def read_scenario(text: str) -> str:
    """Return `til` for `til`, `TIL`, `til_classification` and `task-incremental`; the other scenarios likewise.

    :raises UsageError: there is no such scenario.
    """
    word = text.lower().replace("_", "-").removesuffix("-classification")
    names = {name: name for name in SCENARIOS} | {words: name for name, words in SCENARIOS.items()}
    check_known([word], names, "unknown scenario")
    return names[word]


def read_number_or_names(text: str) -> int | str | list[str]:
    """Return a number for `3`, the text for `seed:7`, and otherwise the names between the commas."""
    try:
        return int(text)
    except ValueError:
        return text if text.startswith("seed:") else [name.strip() for name in text.split(",") if name.strip()]


def read_epochs(text: str) -> int | dict[str, int]:
    """Return a number for `5`, and numbers by task for `laptop=10,*=30`.

    :raises UsageError: the text is neither.
    """
    try:
        if "=" not in text:
            return int(text)
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        return {name.strip(): int(number) for name, _, number in pairs}
    except ValueError as error:
        raise UsageError(f"--epochs takes a number, or task=number,*=number, not {text!r}.") from error


class RunSpec(BaseModel):
    """A run as it is asked for: `nlpcl.config.resolve.resolve` fills in from presets what is left out.

    Every field can change the result. Where and how fast a run is computed (device, batch size at test, compilation) is
    no part of it. The text below a field is its help on the command line. A field that is added later has a default and
    is marked with `Since`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    benchmark: Annotated[str, SpecField(flags=("--benchmark", "--task"), cost=True)] = "demo"
    """Name of the stream of tasks. Default: demo."""
    benchmark_options: Annotated[dict[str, Any] | None, SpecField(options_of="benchmark", cost=True)] = None
    """Options of the benchmark, by name."""
    strategy: Annotated[str, SpecField(flags=("--strategy", "--baseline"), cost=True, compared="method")] = "ctr"
    """Name of the method. Default: ctr."""
    options: Annotated[dict[str, Any] | None, SpecField(options_of="strategy", compared="method")] = None
    """Options of the strategy, by name."""
    backbone: Annotated[str | None, SpecField(flags=("--backbone",), cost=True)] = None
    """Name of the backbone. Default: bert_adapter for text, cnn for images."""
    backbone_options: Annotated[dict[str, Any] | None, SpecField(options_of="backbone", cost=True)] = None
    """Options of the backbone, by name."""
    scenario: Annotated[Scenario, SpecField(flags=("--scenario",), read=read_scenario, cost=True)] = "til"
    """til (task-incremental, default), dil (domain-incremental) or cil (class-incremental)."""
    order: Annotated[
        int | str | list[str], SpecField(flags=("--order", "--idrandom"), read=read_number_or_names, compared="block")
    ] = 0
    """Order of the tasks: number of a published order, seed:N for a random one, or names a,b,c."""
    tasks: Annotated[
        Count | list[str] | None, SpecField(flags=("--tasks", "--ntasks"), read=read_number_or_names, cost=True)
    ] = None
    """Use only the first N tasks, or those named a,b,c."""
    train_size: Annotated[Examples | None, SpecField(flags=("--train-size", "--train-data-size"), cost=True)] = None
    """Use at most this many training examples per task."""
    model: Annotated[str | None, SpecField(flags=("--model", "--bert-model"), cost=True, text=True)] = None
    """Encoder of text: minilm (default), a folder or a hub name. For w2v and w2v_as a file of word vectors; without it
    vectors are trained on the first task."""
    max_length: Annotated[
        _Tokens | None, SpecField(flags=("--max-length", "--max-seq-length"), cost=True, text=True)
    ] = None
    """Longest text, in tokens."""
    padding: Annotated[Literal["dynamic", "fixed"] | None, SpecField(flags=("--padding",), cost=True, text=True)] = None
    """Pad texts to the longest in the batch (dynamic) or to --max-length (fixed)."""
    epochs: Annotated[
        Count | dict[str, Count] | None,
        SpecField(flags=("--epochs", "--num-train-epochs"), read=read_epochs, cost=True),
    ] = None
    """Epochs of each task, or by name: laptop=10,*=30."""
    train_batch_size: Annotated[Count | None, SpecField(flags=("--train-batch-size",), cost=True)] = None
    """Examples in a training step, of all processes together."""
    learning_rate: Annotated[
        LearningRate | None, SpecField(flags=("--learning-rate",), settable=True, compared="method")
    ] = None
    """Learning rate of AdamW."""
    weight_decay: Annotated[Rate | None, SpecField(settable=True, compared="method")] = None
    """Weight decay of AdamW."""
    schedule: Annotated[
        _Schedule | None, SpecField(settable=True, engine=True, plain=("constant",), compared="method")
    ] = None
    """Learning rate within a task: constant, linear (warm-up and decay) or plateau (lowered when validation stalls)."""
    warmup: Annotated[Share | None, SpecField(settable=True, engine=True, compared="method")] = None
    """Share of a task's steps in which the learning rate of a linear schedule rises."""
    clip_norm: Annotated[Positive | None, SpecField(settable=True, engine=True, plain=(None,), compared="method")] = (
        None
    )
    """Largest norm of the gradient of all parameters together."""
    best_epoch: Annotated[bool, SpecField(settable=True, engine=True, plain=(False,)), Since(1)] = False
    """Keep the parameters of the epoch with the lowest validation loss."""
    patience: Annotated[Count, SpecField(settable=True, engine=True), Since(1)] = 5
    """On a plateau schedule: epochs without a lower validation loss before the rate is lowered."""
    plateau_factor: Annotated[float, Field(gt=1, le=1e6), SpecField(settable=True, engine=True), Since(1)] = 3.0
    """On a plateau schedule: what the rate is divided by."""
    min_learning_rate: Annotated[Rate, SpecField(settable=True, engine=True), Since(1)] = 1e-4
    """On a plateau schedule: the rate below which a task ends. Default: 1e-4, at most learning_rate / 100."""
    precision: Annotated[
        _Precision | None, SpecField(flags=("--precision",), engine=True, plain=("fp32",), cost=True)
    ] = None
    """fp32, bf16, fp16, or tf32: fp32 with faster matrix products on a GPU."""
    eval: Annotated[_Tested | None, SpecField(flags=("--eval",), cost=True)] = None
    """Test after each task on the tasks seen so far (seen) or on all (full), or once at the end (final)."""
    seed: Annotated[Seed, SpecField(flags=("--seed",), compared="block")] = 0
    """Seed of the training."""
    data_seed: Annotated[Seed, SpecField(flags=("--data-seed",)), Since(2)] = 0
    """Seed of what is drawn from the data: the subset of --train-size, and validation parts. Default: --seed with
    --train-size, otherwise 0."""
    data_sha256: Annotated[Digest | None, SpecField(), Since(2)] = None
    """Digest of the user's own data, set when the run starts."""
    model_sha256: Annotated[Digest | None, SpecField(), Since(2)] = None
    """Digest of a local encoder or vector file. The id is made of it, and not of the path in model."""

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False, default=str, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text in it is not UTF-8, in which records are written") from error
        except ValueError as error:
            raise ValueError("numbers must be finite") from error
        return value

    @classmethod
    def parse(cls: type[_Spec], content: Mapping[str, Any]) -> _Spec:
        """Return the spec that a mapping describes: a `CompleteSpec` if it has a `spec_version`.

        A complete spec has all fields of text or none, but for `model`: a backbone of word vectors can train its own.

        :raises UsageError: an unknown field, a value out of range, a complete spec that lacks a field, or a spec of a
            newer version.
        """
        made: Any = CompleteSpec if "spec_version" in content else cls
        content = _with_names(content, RENAMED)
        version = content.get("spec_version")
        if isinstance(version, int) and version > SPEC_VERSION:
            raise UsageError(f"this spec has version {version}, newer than {SPEC_VERSION}: update nlpcl.")
        check_known(content, made.model_fields, "a spec has no field")
        needed = [name for name, field in made.model_fields.items() if field.is_required()]
        of_text = [name for name, field in FIELDS.items() if field.text]
        if needed and any(content.get(name) is not None for name in of_text):
            needed += [name for name in of_text if name != "model"]
        if missing := [name for name in needed if content.get(name) is None]:
            raise UsageError(f"a complete spec needs {' and '.join(missing)}.")
        try:
            spec: _Spec = made(**content)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            is_ours = first["type"] == "value_error"
            types = get_type_hints(made, include_extras=True)
            why = first["ctx"]["error"] if is_ours else f"it takes {in_words(types[name])}"
            raise UsageError(f"{name} cannot be {content.get(name)!r}: {why}.") from error
        return spec


class CompleteSpec(RunSpec):
    """A spec that leaves nothing open, as records store it: these fields have a value in every run.

    :ivar spec_version: the oldest version of the spec that has all of its fields and options.
    """

    options: dict[str, Any]
    backbone: str
    backbone_options: dict[str, Any]
    epochs: Count | dict[str, Count]
    train_batch_size: Count
    learning_rate: LearningRate
    weight_decay: Rate
    schedule: _Schedule
    warmup: Share
    precision: _Precision
    eval: _Tested
    spec_version: Count

    @property
    def id(self) -> str:
        """Hash of the spec as it stands."""
        return spec_id(self.model_dump(mode="json", exclude_unset=True))

    def epochs_for(self, task: str) -> int:
        """Return the number of epochs of a task.

        :raises UsageError: `epochs` names neither the task nor `*`.
        """
        if not isinstance(self.epochs, dict):
            return self.epochs
        number = self.epochs.get(task, self.epochs.get("*"))
        if number is None:
            raise UsageError(f"epochs has no entry for task {task!r} and none for '*'.")
        return number

    def engine_settings(self) -> dict[str, Any]:
        """Return the arguments of `ContinualStrategy` that are fields of the spec."""
        settings = {name: getattr(self, name) for name, field in FIELDS.items() if field.engine}
        # TF32 is a mode of the process, see `nlpcl.training.device.tf32`: tensors are float32 as they were.
        return settings | {"precision": "fp32" if self.precision == "tf32" else self.precision}


FIELDS: Mapping[str, SpecField] = {
    name: next(facts for facts in field.metadata if isinstance(facts, SpecField))
    for name, field in RunSpec.model_fields.items()
}
"""The facts of every field of `RunSpec`."""
OWNERS: Mapping[str, str] = {name: field.options_of for name, field in FIELDS.items() if field.options_of is not None}
"""By field that holds options the field that names whose they are."""


def spec_id(stored: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a complete spec's canonical JSON.

    A stored spec is hashed as stored, so a field added to `RunSpec` later changes no old id. If there is a digest of a
    local encoder, it is hashed and the path is not: the encoder may lie elsewhere, or its path be spelled otherwise.
    """
    first = _with_names(stored, {today: name for name, today in RENAMED.items()})
    hashed = {name: value for name, value in first.items() if name != "model" or first.get("model_sha256") is None}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_names(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of a spec with other names of its fields, and of the options in them."""
    renamed = {}
    for field, value in content.items():
        if field in OWNERS and isinstance(value, Mapping):
            owner = f"{content.get(OWNERS[field])}."
            value = {names.get(f"{owner}{n}", f"{owner}{n}").removeprefix(owner): v for n, v in value.items()}
        renamed[names.get(field, field)] = value
    return renamed
