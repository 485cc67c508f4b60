"""Settings for a (benchmark, backbone, model), with where they come from.

A preset is a pair (condition, values). Those whose condition holds are merged in order, later ones win; what the
user gives wins over all. A condition names fields of the spec, the benchmark's `modality`, or with a dot an option that
is given, `options.parity`; a pattern such as `bert-base*` matches names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nlpcl.config.files import read_model, write_atomically
from nlpcl.config.spec import FIELDS, OWNERS, CompleteSpec
from nlpcl.errors import check_known
from nlpcl.registry import benchmarks

Preset = tuple[Mapping[str, Any], Mapping[str, Any]]

PRESETS: tuple[Preset, ...] = (
    # The original toolkit's transformer regime (PyContinual), with one linear warm-up and decay.
    (
        {},
        {
            "max_length": 128,
            "padding": "dynamic",
            "train_batch_size": 32,
            "learning_rate": 5e-5,
            "weight_decay": 0.01,
            "schedule": "linear",
            "warmup": 0.1,
            "clip_norm": 1.0,
            "epochs": 10,
            "precision": "fp32",
            "eval": "seen",
        },
    ),
    # The original's images: plain SGD at 0.05 with early stopping. Here it is AdamW; see docs/presets.md.
    (
        {"modality": "image"},
        {
            "max_length": None,
            "padding": None,
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "clip_norm": None,
            "epochs": 5,
        },
    ),
    ({"backbone": "mlp"}, {"learning_rate": 3e-4}),
    ({"backbone": "bert_adapter"}, {"backbone_options": {"adapter_size": 2000}}),
    # The feature of the published runs.
    ({"model": "bert-base*", "backbone": "bert_adapter"}, {"backbone_options": {"pooling": "pooler"}}),
    ({"model": "bert-base*", "backbone": "bert"}, {"backbone_options": {"pooling": "pooler"}}),
    # The original trains the net on a frozen encoder with plain SGD at 0.05; as with images, here it is AdamW.
    ({"backbone": "bert_frozen"}, {"learning_rate": 1e-3, "weight_decay": 0.0}),
    ({"backbone": "w2v*"}, {"learning_rate": 1e-3, "weight_decay": 0.0}),
    ({"benchmark": "asc"}, {"epochs": {"*": 30, "XuSemEval14_rest": 10, "XuSemEval14_laptop": 10}}),
    ({"benchmark": "dsc"}, {"epochs": 20}),
    # Chosen on validation data, see docs/presets.md.
    (
        {"model": "minilm", "backbone": "bert_adapter"},
        {"learning_rate": 5e-3, "backbone_options": {"adapter_size": 64}},
    ),
    ({"model": "minilm", "backbone": "bert"}, {"learning_rate": 1e-4}),
    ({"model": "minilm", "backbone": "bert_frozen"}, {"learning_rate": 3e-3}),
    ({"model": "minilm"}, {"epochs": 5}),
    ({"benchmark": "demo"}, {"epochs": 7, "max_length": 64, "train_batch_size": 16}),
    # Avalanche's own strategies have neither.
    ({"strategy": "avalanche/*"}, {"schedule": "constant", "warmup": 0.0, "clip_norm": None}),
)


def preset_for(request: Mapping[str, Any], more: Iterable[Preset] = ()) -> dict[str, Any]:
    """Return the merged values of all presets whose condition `request` fulfils; dictionaries of options merge too."""
    options = {f"{field}.{name}": value for field in OWNERS for name, value in (request.get(field) or {}).items()}
    facts = {**request, **options}
    merged: dict[str, Any] = {}
    for condition, values in (*PRESETS, *more):
        if all(fnmatchcase(str(facts.get(field)), pattern) for field, pattern in condition.items()):
            for name, value in values.items():
                merged[name] = {**merged.get(name, {}), **value} if name in OWNERS else value
    return merged


class PresetFile(BaseModel):
    """A preset in a file, as `nlpcl tune` writes it and `--preset` reads it.

    :ivar when: patterns of values by field of the spec, or of `modality`; the preset holds where all of them match.
    :ivar values: fields of the spec; what the command line gives wins over them.
    :ivar source: where the values come from, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: dict[str, str]
    values: Annotated[dict[str, Any], Field(min_length=1)]
    source: str = ""

    @classmethod
    def load(cls, path: Path) -> PresetFile:
        """Read a preset and check it.

        :raises UsageError: there is no such file, or it is not a preset.
        """
        preset = read_model(cls, path, "preset")
        fault = f"{path} is not a preset: a spec has no field"
        check_known(preset.when, {*FIELDS, "modality"}, fault)
        check_known(preset.values, FIELDS, fault)
        return preset

    def save(self, path: Path) -> None:
        """Write the file as a whole or not at all.

        :raises UsageError: the file cannot be written.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(path, text.encode())

    def misfit(self, spec: CompleteSpec) -> str | None:
        """Return in words the first condition that a complete spec does not fulfil, or None if the preset fits."""
        facts = {**spec.model_dump(), "modality": benchmarks.get(spec.benchmark).modality}
        for name, pattern in self.when.items():
            if not fnmatchcase(str(facts[name]), pattern):
                return f"it is for {name} {pattern}, not {facts[name]}"
        return None
