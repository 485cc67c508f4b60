"""What is known of streams before their data are read is what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nlpcl.benchmarks import ASC, DSC, FEMNIST, Demo, PartitionedMNIST, SplitMNIST
from nlpcl.registry import BenchmarkEntry, Known, benchmarks

# Streams whose tasks are named after classes that only the data name.
NAMED_BY_DATA = {"SplitCIFAR10": 5, "SplitCIFAR100": 10, "SplitTinyImageNet": 10}
STREAMS = [entry for entry in benchmarks.entries() if entry.name != "folder"]


def known_of(entry: BenchmarkEntry, names: list[str] | None = None, **changes: Any) -> Known:
    asked = {"scenario": entry.scenarios[0], "order": 0, "tasks": None, **changes}
    options = {name: option.default for name, option in entry.options.declared().items()}
    if names is None:
        names = list(entry.published(**asked, **options)[0][0]) if entry.published else [""] * NAMED_BY_DATA[entry.name]
    assert entry.known is not None
    return entry.known(names, **asked, **options)


@pytest.mark.parametrize("entry", STREAMS, ids=lambda entry: entry.name)
def test_every_stream_says_what_is_known(entry: BenchmarkEntry) -> None:
    known = known_of(entry)
    sizes = [task.sizes for task in known.tasks]
    if None not in sizes and entry.sizes is not None:
        assert tuple(map(sum, zip(*(s for s in sizes if s), strict=True))) == entry.sizes
    for task in known.tasks:
        assert task.labels is None or (task.labels and (not entry.labels or set(task.labels) <= {*entry.labels}))
    if entry.own_files is None:
        assert known.files is not None and None not in sizes


@pytest.mark.parametrize(
    ("stream", "arguments"),
    [
        (Demo, {"order": 2, "tokenizer": True}),
        (ASC, {"order": 1, "tasks": 3, "tokenizer": True}),
        (SplitMNIST, {"order": 3}),
        (SplitMNIST, {"scenario": "dil", "tasks": 2}),
        pytest.param(PartitionedMNIST, {"scenario": "dil"}, marks=pytest.mark.full),
        pytest.param(PartitionedMNIST, {"scenario": "dil", "tasks": 12}, marks=pytest.mark.full),
        pytest.param(FEMNIST, {}, marks=pytest.mark.full),
        pytest.param(ASC, {"tokenizer": True}, marks=pytest.mark.full),
        pytest.param(DSC, {"domains": 24, "tokenizer": True}, marks=pytest.mark.full),
    ],
)
def test_real_data_are_what_is_known_of_them(
    stream: Any, arguments: dict[str, Any], tiny: str, data_root: Path
) -> None:
    text = {"tokenizer": tiny, "max_length": 8} if arguments.get("tokenizer") else {}
    benchmark = stream(**{**arguments, **text, "root": data_root})
    asked = {name: value for name, value in arguments.items() if name != "tokenizer"}
    known = known_of(benchmarks.get(benchmark.name), benchmark.task_names, **asked)
    facts = [(tuple(s["labels"]), (s["train"], s["valid"], s["test"])) for s in benchmark.sizes]
    assert [tuple(task) for task in known.tasks] == facts and benchmark.files == known.files
