"""Your own data: frames, DatasetDicts and folders; bad rows are refused with their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlpcl.benchmarks import text_benchmark
from nlpcl.cli import main
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.runs import run as experiment
from tests.helpers.messages import refused


def frame(n: int, labels: tuple[Any, ...] = ("no", "yes")) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"good cat {i}" for i in range(n)], "label": [labels[i % len(labels)] for i in range(n)]}
    )


def write(folder: Path, name: str, n: int = 20, labels: tuple[Any, ...] = ("no", "yes")) -> None:
    (folder / name).mkdir(parents=True)
    frame(n, labels).to_csv(folder / name / "train.csv", index=False)
    frame(6, labels).to_json(folder / name / "test.jsonl", orient="records", lines=True)


def test_frames_and_dataset_dicts_give_the_same_stream(tiny: str) -> None:
    frames = {"a": {"train": frame(20), "validation": frame(4), "test": frame(6)}}
    dicts = {
        "a": datasets.DatasetDict({split: datasets.Dataset.from_pandas(part) for split, part in frames["a"].items()})
    }
    for given_tasks in (frames, dicts):
        benchmark = text_benchmark(given_tasks, tokenizer=tiny, max_length=8)
        (size,) = benchmark.sizes
        assert size == {"name": "a", "labels": ["no", "yes"], "train": 20, "valid": 4, "test": 6}
        assert benchmark.test_stream[0].dataset[1][1] == 1


def test_a_folder_is_a_stream(tmp_path: Path, tiny: str) -> None:
    write(tmp_path, "b", labels=(1, 10, 2))
    write(tmp_path, "a")
    benchmark = text_benchmark(tmp_path, tokenizer=tiny, max_length=8)
    assert benchmark.task_names == ["a", "b"]
    assert benchmark.sizes[1]["labels"] == ["1", "2", "10"] and benchmark.n_classes == [2, 3]
    assert (benchmark.sizes[0]["train"], benchmark.sizes[0]["valid"]) == (18, 2)
    assert sorted(benchmark.files) == ["a/test.jsonl", "a/train.csv", "b/test.jsonl", "b/train.csv"]


def test_own_data_run_from_the_command_line(tmp_path: Path, tiny: str) -> None:
    write(tmp_path / "data", "a")
    write(tmp_path / "data", "b")
    command = ["run", "--benchmark", "folder", "--data-root", str(tmp_path / "data"), "--strategy", "ncl"]
    assert main([*command, "--model", tiny, "--epochs", "1", "--max-length", "8", "--out", str(tmp_path / "runs")]) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"text,label\ngood cat,no\n ,yes\n", "3 text"),
        (b"text,label\ngood cat,no\nbad cat,\n", "3 label"),
        (b"text,label\ngood cat,maybe\n", "2 maybe"),
        (b"text,label\ngood\xff cat,no\n", "2 UTF-8"),
        (b"words,label\ngood cat,no\n", "text"),
        (b"", "test.csv"),
    ],
)
def test_bad_rows_are_refused_with_their_place(content: bytes, words: str, tmp_path: Path, tiny: str) -> None:
    write(tmp_path, "a")
    (tmp_path / "a" / "test.jsonl").unlink()
    (tmp_path / "a" / "test.csv").write_bytes(content)
    with refused(f"test.csv {words}"):
        text_benchmark(tmp_path, tokenizer=tiny)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("test.jsonl", '{"text": "good", "label": "no"}\n[1, 2]\n', "2 object"),
        ("test.jsonl", '{"text": "good", "label": "no"}\nnot json\n', "2 JSON"),
        ("test.jsonl", '{"text": 3, "label": "no"}\n', "1 text"),
        ("test.jsonl", '{"text": "good"}\n{"text": "good"}\n', "label"),
        ("test.json", '{"text": "good", "label": "no"}', "list"),
        ("test.json", '[{"text": "good", "label": null}]', "1 label"),
    ],
)
def test_bad_json_is_refused_with_its_place(name: str, content: str, words: str, tmp_path: Path, tiny: str) -> None:
    write(tmp_path, "a")
    (tmp_path / "a" / "test.jsonl").unlink()
    (tmp_path / "a" / name).write_text(content)
    with refused(f"{name} {words}"):
        text_benchmark(tmp_path, tokenizer=tiny)


def test_missing_parts_and_folders(tmp_path: Path, tiny: str) -> None:
    with refused(str(tmp_path)):
        text_benchmark(tmp_path, tokenizer=tiny)
    with refused("nowhere"):
        text_benchmark(tmp_path / "nowhere", tokenizer=tiny)
    with refused("a test"):
        text_benchmark({"a": {"train": frame(4)}}, tokenizer=tiny)
    with refused("one task"):
        text_benchmark({}, tokenizer=tiny)


def test_class_incremental_needs_labels_that_differ(tiny: str) -> None:
    def tasks(second: tuple[str, ...]) -> dict[str, Any]:
        return {"a": {"train": frame(8), "test": frame(4)}, "b": {"train": frame(8, second), "test": frame(4, second)}}

    benchmark = text_benchmark(tasks(("red", "blue")), scenario="cil", tokenizer=tiny, max_length=8)
    assert benchmark.n_classes == [4, 4] and benchmark.test_stream[1].classes_in_this_experience == [2, 3]
    with refused("label no"):
        text_benchmark(tasks(("no", "maybe")), scenario="cil", tokenizer=tiny)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=30), min_size=1, max_size=3),
    st.sampled_from(["til", "dil"]),
    st.integers(0, 5),
)
def test_every_example_is_kept_exactly_once(tiny: str, labels: list[list[int]], scenario: str, seed: int) -> None:
    tasks, number = {}, 0
    for t, column in enumerate(labels):
        column = [*column, 0, 1, 2]  # every task has the three labels
        texts = [" ".join(["cat", "dog"][int(bit)] for bit in f"{number + i:010b}") for i in range(len(column))]
        number += len(column)
        train = pd.DataFrame({"text": texts, "label": column})
        tasks[f"task{t}"] = {"train": pd.concat([train, train.iloc[-3:]]), "test": train}
    benchmark = text_benchmark(tasks, scenario=scenario, tokenizer=tiny, max_length=16, seed=seed)
    for t, column in enumerate(labels):
        kept = [tuple(x[0].tolist()) for split in (benchmark.train_stream, benchmark.valid_stream)
                for x, *_ in (split[t].dataset[i] for i in range(len(split[t].dataset)))]  # fmt: skip
        tested = [tuple(benchmark.test_stream[t].dataset[i][0][0].tolist()) for i in range(len(column) + 3)]
        assert sorted(kept) == sorted([*tested, *tested[-3:]])
        expected = t if scenario == "til" else 0
        assert set(benchmark.train_stream[t].dataset.targets_task_labels) == {expected}
    assert benchmark.n_classes == [3] * len(labels)


def test_epochs_of_a_task_that_the_folder_lacks_are_refused(tiny: str, folders: dict[str, Path]) -> None:
    asked = {"benchmark": "folder", "strategy": "ncl", "model": tiny, "epochs": {"task9": 3, "*": 1}}
    spec = resolve(RunSpec.parse(asked))
    with refused("epochs task9"):
        experiment.setup(spec, data_root=folders["til"], device=torch.device("cpu"))
