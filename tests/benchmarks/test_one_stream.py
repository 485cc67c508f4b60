"""What makes a stream: facts, options and one function; the arguments that all share; and what it imports."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nlpcl.benchmarks
from nlpcl.benchmarks import ASC, DSC, Benchmark, Demo, SplitMNIST, text_benchmark
from nlpcl.errors import Impossible, UsageError
from nlpcl.registry import BenchmarkEntry, benchmarks
from tests.helpers.own_data import Blank

ROOT = Path(__file__).resolve().parents[2]
SHARED = ["scenario", "order", "tasks", "train_size", "seed", "root"]


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning:nlpcl", "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("entry", benchmarks.entries(), ids=lambda entry: entry.name)
def test_every_stream_shows_the_shared_arguments_and_its_own(entry: BenchmarkEntry) -> None:
    assert entry.options is not None
    parameters = inspect.signature(entry.target).parameters
    text = ["tokenizer", "max_length"] if entry.modality == "text" else []
    assert sorted(parameters) == sorted([*SHARED, *text, *entry.options.declared()])
    assert parameters["scenario"].default == entry.scenarios[0]
    assert all(f":param {name}:" in (entry.target.__doc__ or "") for name in parameters)


def test_own_data_show_their_options() -> None:
    options = benchmarks.get("folder").options
    assert options is not None and {*options.declared()} < {*inspect.signature(text_benchmark).parameters}


@pytest.mark.parametrize("wrong", [{"domains": 11}, {"train_size": 0}, {"seed": -1}, {"tasks": 1.5}, {"order": None}])
def test_a_wrong_argument_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DSC(tokenizer=Blank(), **wrong)


@pytest.mark.parametrize("unknown", ["domian", "lengths"])
def test_an_argument_that_there_is_not_is_a_type_error(unknown: str) -> None:
    for stream in (DSC, SplitMNIST):
        with pytest.raises(TypeError, match=unknown):
            stream(**{unknown: 1})
    with pytest.raises(UsageError, match=unknown):
        text_benchmark({}, **{unknown: 1})


def test_a_scenario_without_a_meaning_is_refused_before_anything_is_read() -> None:
    with pytest.raises(Impossible, match="asc"):
        ASC("cil", root="/nowhere")


def test_demo_reads_nothing() -> None:
    benchmark = Demo("dil", tokenizer=Blank(), max_length=8, tasks=1, root="/nowhere")
    assert isinstance(benchmark, Benchmark) and benchmark.name == "demo" and benchmark.scenario == "dil"
    assert benchmark.labels == ("positive", "negative") and benchmark.max_length == 8
    assert benchmark.files == {} and benchmark.vectors is None is benchmark.states
    assert len(benchmark.packed["valid"][0]) == len(benchmark.valid_stream[0].dataset) == 40


def test_looking_up_one_stream_imports_that_one() -> None:
    code = (
        "import sys; from nlpcl.registry import benchmarks; benchmarks.get('asc'); "
        "print(*(name for name in sys.modules if name.startswith('nlpcl.benchmarks.')))"
    )
    imported = {
        name for name in python(code).split() if re.match(r"nlpcl\.benchmarks\.(text|images|folder)\.[a-z]", name)
    }
    assert imported == {"nlpcl.benchmarks.text.asc"}


def test_every_name_that_type_checkers_see_can_be_imported() -> None:
    tree = ast.parse((ROOT / "nlpcl" / "benchmarks" / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == sorted(dir(nlpcl.benchmarks)) and all(hasattr(nlpcl.benchmarks, name) for name in names)
    assert not hasattr(nlpcl.benchmarks, "Nothing")


def test_the_stream_of_the_docs_runs(tiny: str) -> None:
    text = (ROOT / "docs" / "streams.md").read_text(encoding="utf-8")
    _, example = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    code = example.replace('"minilm"', repr(tiny)) + (
        "\nassert benchmark.task_names == ['tools', 'fruits'] and benchmark.n_classes == [2, 2]"
        "\nfrom nlpcl.registry import benchmarks\nassert benchmarks.get('colours').target is Colours"
        "\nprint(benchmark.name)"
    )
    assert python(code).split()[-1] == "colours"
