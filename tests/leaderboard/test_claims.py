"""What a record says is compared with what the package knows and with what the rest of the record forces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from nlpcl.cli import main
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import CompleteSpec, RunSpec
from nlpcl.leaderboard.shapes import DataFacts, EncoderFacts, GitFacts, HostFacts, SizeFacts, TaskFacts, VectorFacts
from nlpcl.leaderboard.submit import checked
from nlpcl.records.record import Matrices, Measured, Record, Seconds
from tests.helpers.messages import mentions, refused
from tests.helpers.records import record_of, triangle

ROOT = Path(__file__).resolve().parents[2]
FILED = ROOT / "leaderboard/results/asc/til/bert_adapter"
CTR, MTL = FILED / "ctr/4679a12dd214f4d6.json", FILED / "mtl/8b82b56dcf8cde50.json"
FILE = "asc/dat/Bing3Domains/asc/Computer/dev!json"
# Parts of a record that the record's model keeps as free JSON.
SHAPES: dict[str, tuple[type[BaseModel], ...]] = {
    "spec": (CompleteSpec,),
    "data": (DataFacts,),
    "data.tasks": (TaskFacts,),
    "data.encoder": (EncoderFacts, VectorFacts),
    "sizes": (SizeFacts,),
    "matrices": (Matrices,),
    "measured": (Measured,),
    "measured.seconds": (Seconds,),
    "measured.host": (HostFacts,),
    "measured.git": (GitFacts,),
}
NAMED = {"data.encoder": ("*.safetensors", "*.bin"), "seeds": ("train", "data")}  # parts without a model of their own


def fields(shapes: tuple[type[BaseModel], ...] = (Record,), place: str = "") -> Iterator[str]:
    """Yield every field of a record by dotted name."""
    for name in dict.fromkeys(name for shape in shapes for name in shape.model_fields):
        path = f"{place}.{name}" if place else name
        if path not in SHAPES and path not in NAMED:
            yield path
        yield from fields(SHAPES.get(path, ()), path)
        yield from (f"{path}.{part}" for part in NAMED.get(path, ()))


def documented() -> dict[str, str]:
    """Return the kind of check by field, from the table of docs/protocol.md."""
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (known|follows|form) \|", text, flags=re.MULTILINE)
    return {field: kind for names, kind in rows for field in re.findall(r"`([^`]+)`", names)}


def test_the_page_names_every_field() -> None:
    names = list(fields())
    assert sorted(documented()) == sorted(names) and len(names) > 70


# Field, words of the message, and where a filed record of ASC is changed to what.
CHANGES: list[tuple[str, str, str, Any]] = [
    ("record_version", "record_version", "record_version", 2),
    ("status", "failed error", "status", "failed"),
    ("error", "error", "error", "none"),
    ("spec.benchmark", "domains", "spec.benchmark", "dsc"),
    ("spec.strategy", "ctr2", "spec.strategy", "ctr2"),
    ("spec.backbone", "bert2", "spec.backbone", "bert2"),
    ("spec.scenario", "scenario", "spec.scenario", "xil"),
    ("spec.benchmark_options", "domains", "spec.benchmark_options", {"domains": 10}),
    ("spec.options", "evil", "spec.options.evil", 1),
    ("spec.options", "capsules", "spec.options.capsules", True),
    ("spec.options", "parity", "spec.options.parity", 0),
    ("spec.options", "lamb", "spec.options.lamb", 1),
    ("spec.backbone_options", "adapter_size", "spec.backbone_options.adapter_size", -1),
    ("spec.order", "order", "spec.order", 2),
    ("spec.order", "order seed", "spec.order", "seed:3"),
    ("spec.tasks", "tasks", "spec.tasks", 4),
    *(
        ("spec.model", "model", "spec.model", name)
        for name in ("x/../../y", "x/..", "..", "x//y", "/x", "~/x", "./x", "x\\y", "c:x", "x y", "x/y.git", "")
    ),
    ("spec.spec_version", "spec_version", "spec.spec_version", 2),
    ("spec.data_sha256", "data_sha256", "spec.data_sha256", "0" * 64),
    ("spec.model_sha256", "model_sha256", "spec.model_sha256", "0" * 64),
    ("spec.epochs", "epochs", "spec.epochs", {"Bing3domains_Router": 5}),
    ("data.tasks.name", "Bing3domains_Speaker", "data.tasks.0.name", "Bing3domains_Speaker"),
    *(
        ("data.tasks.labels", "labels", "data.tasks.0.labels", labels)
        for labels in (["a", "b", "c"], ["positive"], ["negative", "positive"], ["positive", "positive"], [])
    ),
    *(("data.tasks.train", "train", "data.tasks.0.train", number) for number in (1, 199, 0, -1, True)),
    ("data.tasks.train", "200 201", "data.tasks.0.train", 201),
    *(("data.tasks.valid", "valid", "data.tasks.0.valid", number) for number in (0, 28, 30, 10**9, "29")),
    *(("data.tasks.test", "test", "data.tasks.0.test", number) for number in (1, 28, 58, 290, 2.9e1)),
    *(("data.files", "data.files", f"data.files.{FILE}", text) for text in ("0" * 64, "", "0", None)),
    ("data.files", "data.files missing", "data.files", {}),
    ("data.files", "data.files more", "data.files.more", "0" * 64),
    ("data.encoder.name", "data.encoder.name", "data.encoder.name", "bert-base-uncased"),
    ("data.encoder.name", "data.encoder", "data.encoder", None),
    ("data.encoder.*.safetensors", "data.encoder", "data.encoder.model!safetensors", "0" * 64),
    ("data.encoder.*.safetensors", "data.encoder", "data.encoder", {"name": "minilm"}),
    ("data.encoder.*.bin", "data.encoder", "data.encoder.pytorch_model!bin", "0" * 64),
    ("data.encoder.tokenizer", "data.encoder.tokenizer", "data.encoder.tokenizer", {"tokenizer.json": "0"}),
    ("data.encoder.revision", "revision", "data.encoder.revision", "0" * 40),
    ("sizes.parameters", "sizes.parameters", "sizes.parameters", -1),
    ("sizes.parameters_frozen_at_end", "parameters_frozen_at_end", "sizes.parameters", 0),
    ("sizes.kept_bytes", "sizes.kept_bytes", "sizes.kept_bytes", []),
    ("sizes.kept_bytes", "sizes.kept_bytes", "sizes.kept_bytes.0.heads", -1),
    ("sizes.best_epochs", "sizes.best_epochs", "sizes.best_epochs", [1, 2, 3, 4, 6]),
    ("sizes.undecided_gates", "sizes.undecided_gates", "sizes.undecided_gates", [0.5]),
    ("sizes.units_used", "sizes.units_used", "sizes.units_used", 1.5),
    ("sizes", "sizes.more", "sizes.more", 1),
    ("seeds.train", "seeds", "seeds.train", 1),
    ("seeds.data", "seeds", "seeds.data", 7),
    *(("versions", "versions", f"versions.{name}", text) for name, text in (
        ("torch", "newest"), ("numpy", ""), ("threads", "0"), ("x", "1.0"), ("python", "not installed"),
    )),
    ("versions", "versions python", "versions", {}),
    *(("matrices.accuracy", "accuracy 29", "matrices.accuracy.0.0", score) for score in (0.86, 0.862, 0.862072, 0.99)),
    *(("matrices.macro_f1", "macro_f1 29", "matrices.macro_f1.0.0", score) for score in (0.0, 0.4, 0.71001, 0.87, 1)),
    ("matrices.initial", "initial", "matrices.initial", [0.5] * 5),
    ("measured.started", "measured.started", "measured.started", "yesterday"),
    ("measured.started", "measured.started", "measured.started", "2026-11-27T19:54:19+02:00"),
    ("measured.seconds.total", "measured.seconds.total", "measured.seconds.total", 100.0),
    ("measured.seconds.train", "measured.seconds.train", "measured.seconds.train", [1.0]),
    ("measured.seconds.train", "measured.seconds.train", "measured.seconds.train.0", -1.0),
    ("measured.seconds.evaluate", "measured.seconds.evaluate", "measured.seconds.evaluate", [0.1] * 6),
    ("measured.samples_per_second", "measured.samples_per_second", "measured.samples_per_second", 313.9),
    ("measured.peak_gpu_memory_mb", "measured.peak_gpu_memory_mb", "measured.peak_gpu_memory_mb", 1.0),
    ("measured.peak_gpu_memory_mb", "measured.peak_gpu_memory_mb", "measured.device", "cuda"),
    ("measured.device", "measured.device", "measured.device", "the big one"),
    ("measured.processes", "processes", "measured.processes", 0),
    ("measured.host.cores", "measured.host.cores", "measured.host.cores", 0),
    ("measured.host", "measured.host.owner", "measured.host.owner", "me"),
    ("measured.git.commit", "measured.git.commit", "measured.git.commit", "main"),
]  # fmt: skip


def changed(source: Path, target: Path, where: str, value: Any) -> Path:
    """Write a copy of a record with another value at a dotted place, where ! stands for a dot in a name."""
    content = json.loads(source.read_text(encoding="utf-8"))
    part = content
    *path, last = where.split(".")
    for name in path:
        part = part[int(name)] if isinstance(part, list) else part[name]
    part[int(last) if isinstance(part, list) else last.replace("!", ".")] = value
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


@pytest.mark.parametrize(("field", "words", "where", "value"), CHANGES, ids=[f"{c[2]}={c[3]}"[:60] for c in CHANGES])
def test_a_filed_record_with_one_thing_changed_is_refused(
    tmp_path: Path, capsys: Any, field: str, words: str, where: str, value: Any
) -> None:
    path = changed(CTR, tmp_path / "record.json", where, value)
    assert main(["leaderboard", "add", str(path), "--results", str(tmp_path / "results")]) == 2
    shown = capsys.readouterr().err
    assert mentions(shown, f"{path} {words}") and shown.count("\n") == 1 and len(shown) < 500 + len(str(path))
    assert [*tmp_path.iterdir()] == [path]


def test_what_is_known_or_follows_is_among_the_changes() -> None:
    vectors = {"data.encoder.sha256", "data.encoder.trained_on"}
    wanted = {field for field, kind in documented().items() if kind != "form"} - vectors
    assert wanted <= {field for field, *_ in CHANGES}


@pytest.mark.parametrize("path", sorted(FILED.rglob("*.json")), ids=lambda path: f"{path.parent.name} {path.stem}")
def test_what_is_filed_is_accepted(path: Path) -> None:
    assert checked(path).status == "ok"


def test_joint_training_has_one_of_each(tmp_path: Path) -> None:
    for where in ("sizes.kept_bytes", "measured.seconds.train", "measured.seconds.evaluate"):
        part = json.loads(MTL.read_text(encoding="utf-8"))
        for name in where.split("."):
            part = part[name]
        with refused(where):
            checked(changed(MTL, tmp_path / "record.json", where, part * 5))


@pytest.mark.parametrize(
    ("accuracy", "macro_f1", "is_possible"),
    [
        (1.0, 1.0, True), (1.0, 0.99, False), (1.0, 0.3, False), (0.0, 0.0, True), (0.0, 0.1, False),
        (0.5, 0.5, True), (0.5, 0.333333, True), (0.5, 0.333, False), (0.5, 0.51, False), (0.5, 0.49, False),
        (118 / 120, 118 / 120, True), (0.75, 0.428571, True), (0.75, 0.42, False),
    ],
)  # fmt: skip
def test_macro_f1_beside_an_accuracy_of_two_classes(
    tmp_path: Path, accuracy: float, macro_f1: float, is_possible: bool
) -> None:
    matrices = {
        name: triangle([0.5], [0.5, 0.5], [score, 0.5, 0.5])
        for name, score in (("accuracy", accuracy), ("macro_f1", macro_f1))
    }
    path = tmp_path / "record.json"
    record_of(matrices=matrices).save(path)
    if is_possible:
        assert checked(path)
    else:
        with refused("macro_f1 laptop 120"):
            checked(path)


def test_a_strategy_of_one_process_ran_in_one(tmp_path: Path) -> None:
    for processes in (1, 2):
        record_of("avalanche/LwF", measured={"processes": processes}).save(tmp_path / "record.json")
        if processes == 1:
            assert checked(tmp_path / "record.json")
        else:
            with refused("measured.processes avalanche/LwF"):
                checked(tmp_path / "record.json")


def test_word_vectors_are_those_of_the_spec(tmp_path: Path) -> None:
    trained = {"name": "trained word vectors", "method": "gensim", "words": 9, "dimensions": 300}
    asked = {"strategy": "ncl", "backbone": "w2v", "tasks": 3, "train_size": 20}
    spec = resolve(RunSpec.parse(asked)).model_dump(mode="json", exclude_unset=True)
    good = {**trained, "trained_on": "the training text of task laptop"}
    record_of(spec=spec, data={**record_of().data, "encoder": good}).save(tmp_path / "record.json")
    assert checked(tmp_path / "record.json")
    for source, words in (
        ({**trained, "trained_on": "the training text of task hotel"}, "data.encoder.trained_on laptop"),
        ({**trained, "sha256": "0" * 64}, "data.encoder.sha256"),
        ({"name": "minilm"}, "data.encoder.words"),
    ):
        record_of(spec=spec, data={**record_of().data, "encoder": source}).save(tmp_path / "record.json")
        with refused(words):
            checked(tmp_path / "record.json")
