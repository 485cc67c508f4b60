"""A run as it is asked for, in the words of `nlpcl run`: read from texts, and written as a command again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlpcl.config.files import fault, write_atomically
from nlpcl.config.spec import RunSpec, training_settings
from nlpcl.errors import UsageError, suggest
from nlpcl.options import Option, assignment, entry_options, parse_options
from nlpcl.registry import SCENARIOS, backbones, benchmarks, default_backbone, strategies

# The fields of a spec that are options of `nlpcl run`; `--set` reaches the rest.
FIELDS = (
    *("benchmark", "strategy", "backbone", "scenario", "order", "model", "epochs", "train_batch_size"),
    *("learning_rate", "max_length", "seed", "data_seed", "tasks", "train_size", "eval", "padding", "precision"),
)


def flag(name: str) -> str:
    """The option of `nlpcl run` that sets a field."""
    return "--" + name.replace("_", "-")


def scenario_of(text: str) -> str:
    """`til`, `til_classification`, `TIL`, `task-incremental` are one word."""
    word = text.lower().replace("_", "-").removesuffix("-classification")
    names = {"til": "til", "dil": "dil", "cil": "cil"} | {full: short for short, full in SCENARIOS.items()}
    if word not in names:
        raise UsageError(f"unknown scenario {text!r}. {suggest(word, names)}")
    return names[word]


def number_or_names(text: str) -> int | str | list[str]:
    """`3`, `seed:7`, or names joined by commas."""
    try:
        return int(text)
    except ValueError:
        return text if text.startswith("seed:") else [name.strip() for name in text.split(",") if name.strip()]


def epochs_of(text: str) -> int | dict[str, int]:
    """`5`, or by task `laptop=10,*=30`."""
    try:
        if "=" not in text:
            return int(text)
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        return {name.strip(): int(number) for name, _, number in pairs}
    except ValueError as error:
        raise UsageError(f"--epochs takes a number, or task=number,*=number, not {text!r}.") from error


# Fields of a spec that hold the options of strategy, backbone and benchmark.
OWNED = ("options", "backbone_options", "benchmark_options")
READERS: dict[str, Callable[[str], Any]] = {
    "scenario": scenario_of,
    "order": number_or_names,
    "tasks": number_or_names,
    "epochs": epochs_of,
}


class PresetFile(BaseModel):
    """Settings in a file, as `nlpcl tune` writes them and `--preset` reads them: one more of `nlpcl.config.presets`.

    :ivar when: by field of the spec, or `modality`, a pattern of its value; all must hold.
    :ivar values: fields of the spec; what the command line gives wins over them.
    :ivar source: where they come from, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: dict[str, str]
    values: Annotated[dict[str, Any], Field(min_length=1)]
    source: str = ""

    @classmethod
    def load(cls, path: Path) -> PresetFile:
        """Read and check one.

        :raises UsageError: there is no such file, or it is no preset.
        """
        try:
            preset = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror}).") from error
        except ValidationError as error:
            raise UsageError(f"{path} is not a preset: {fault(error)}.") from error
        known = set(RunSpec.model_fields) - {"spec_version"}
        for names, allowed in ((preset.when, known | {"modality"}), (preset.values, known)):
            for name in names:
                if name not in allowed:
                    raise UsageError(f"{path} is not a preset: a spec has no field {name!r}. {suggest(name, allowed)}")
        return preset

    def save(self, path: Path) -> None:
        """Write to a temporary name, then rename.

        :raises UsageError: the file cannot be written.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise UsageError(f"could not write {path} ({error.strerror or error}).") from error

    def misfit(self, spec: RunSpec) -> str | None:
        """The first condition that a complete spec does not fulfil, in words; None: it fits."""
        facts = {**spec.model_dump(), "modality": benchmarks.get(spec.benchmark).modality}
        for name, pattern in self.when.items():
            if not fnmatchcase(str(facts[name]), pattern):
                return f"it is for {name} {pattern}, not {facts[name]}"
        return None


@dataclass(frozen=True)
class Request:
    """What `nlpcl run` is told of a run.

    :param fields: by field of the spec (one of `FIELDS`) its text.
    :param assign: the `name=value` of each `--set`.
    :param presets: the file of each `--preset`.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    assign: tuple[str, ...] = ()
    presets: tuple[Path, ...] = ()

    def spec(self) -> RunSpec:
        """The complete spec.

        :raises UsageError: a name is unknown, a value wrong, the combination impossible, or a preset does not fit.
        """
        given = self._read()
        chosen = parse_options(self.assign, self.owners()) if self.assign else {}
        fields = dict(zip(chosen, OWNED, strict=False))
        own = {fields[owner]: values for owner, values in chosen.items() if values and owner in fields}
        presets = [PresetFile.load(path) for path in self.presets]
        whole = RunSpec.parse({**given, **own, **chosen.get("training", {})})
        spec = whole.filled([(preset.when, preset.values) for preset in presets])
        for path, preset in zip(self.presets, presets, strict=True):
            misfit = preset.misfit(spec)
            if misfit:
                raise UsageError(f"--preset {path} does not fit this run: {misfit}.")
        return spec

    def owners(self) -> dict[str, dict[str, Option]]:
        """The options that `--set` reaches, by owner: strategy, backbone, benchmark, training, asked in this turn.

        :raises UsageError: a name is unknown.
        """
        named = RunSpec.parse(self._read())
        method, stream = strategies.get(named.strategy), benchmarks.get(named.benchmark)
        body = backbones.get(named.backbone or default_backbone(named.benchmark))
        return {
            method.name: entry_options(method),
            body.name: entry_options(body),
            stream.name: entry_options(stream),
            "training": training_settings(),
        }

    def assigned(self) -> dict[str, str]:
        """By name the text of each `--set`.

        :raises UsageError: one is not name=value, or a name comes twice, in `fields` or here.
        """
        found: dict[str, str] = {}
        for pair in self.assign:
            name, text = assignment(pair)
            if name in found or name in self.fields:
                raise UsageError(f"{name} is given twice: give all its values at once, as --set {name}=a,b.")
            found[name] = text
        return found

    def argv(self) -> list[str]:
        """The arguments of `nlpcl run` that ask for the same."""
        named = [part for name, text in self.fields.items() for part in (flag(name), text)]
        assigned = [part for pair in self.assign for part in ("--set", pair)]
        return [*named, *assigned, *(part for path in self.presets for part in ("--preset", str(path)))]

    def _read(self) -> dict[str, Any]:
        return {name: READERS.get(name, str)(text) for name, text in self.fields.items()}
