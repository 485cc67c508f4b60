"""Private names of Avalanche and torch: each is there, each is listed, and each is used in one file."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, FlatData, TransformGroups
from avalanche.core import SupervisedPlugin
from avalanche.training import JointTraining
from avalanche.training.templates import SupervisedTemplate
from torch.utils.data import TensorDataset
from transformers import BertConfig

from nlpcl.training import internals
from nlpcl.training.internals import INHERITED, attributes_of, concatenation, flat_data

PACKAGE = Path(__file__).parent.parent / "nlpcl"
FILE = "training/internals.py"


def private_names(cls: type) -> set[str]:
    """Return the private names that a class of Avalanche's defines, or sets on its objects."""
    sources = [inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("avalanche")]
    set_in_code = {name for source in sources for name in re.findall(r"\bself\.(_[a-z]\w*)\b[^=\n(]*=[^=]", source)}
    return {name for name in set_in_code | set(dir(cls)) if re.match(r"_[a-z]", name)}


@pytest.mark.parametrize("path", INHERITED)
def test_the_names_that_our_classes_inherit_are_there(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert set(INHERITED[path]) <= private_names(getattr(importlib.import_module(module), name))


def test_a_dataset_is_the_concatenation_that_it_says() -> None:
    left, right = TensorDataset(torch.arange(3)), TensorDataset(torch.arange(10, 14))
    data = AvalancheDataset([left, right], data_attributes=[DataAttribute([*"abcdefg"], "letter")])
    for chosen in (data, data.subset([5, 0, 3])):
        parts, ends, rows = concatenation(flat_data(chosen))
        assert ends == [3, 7]
        examples = [example for part in parts for example in part]
        positions = range(len(chosen)) if rows is None else rows
        assert [examples[i] for i in positions] == [chosen[i] for i in range(len(chosen))]
    assert list(attributes_of(data.subset([5, 0, 3]))["letter"]) == ["f", "a", "d"]


def test_a_dataset_with_transformations_is_no_plain_concatenation() -> None:
    transforms = TransformGroups({"train": lambda x: x, "eval": None})
    data = AvalancheDataset([TensorDataset(torch.arange(3))], transform_groups=transforms)
    with pytest.raises(TypeError, match="one by one"):
        concatenation(flat_data(data))


def test_transformers_says_how_it_computes_attention() -> None:
    assert BertConfig(attn_implementation="eager")._attn_implementation == "eager"


def test_torch_has_the_names_we_use() -> None:
    tensor = torch.zeros(2)
    before = internals.version_of(tensor)
    tensor += 1
    assert internals.version_of(tensor) > before
    (difference,) = internals.differences([tensor], [torch.tensor([1.0, 3.0])])
    (product,) = internals.products([difference], [torch.tensor([5.0, 5.0])])
    assert product.tolist() == [0.0, -10.0]
    assert all(importlib.util.find_spec(name) for name in internals.COMPILER_ERRORS)


def test_the_parts_of_a_module_are_what_its_state_holds() -> None:
    module = torch.nn.Module()
    module.layer, module.weight = torch.nn.Linear(2, 3), torch.nn.Parameter(torch.ones(2))
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("passing", torch.zeros(1), persistent=False)
    module.register_buffer("empty", None)
    parts = internals.parts_of(module)
    assert set(parts) == {name.partition(".")[0] for name in module.state_dict()}
    assert parts["layer"] is module.layer
    assert internals.empty_buffers(module) == {"empty"}


def test_private_names_of_avalanche_are_used_where_they_are_listed() -> None:
    of_strategies = private_names(SupervisedTemplate) | private_names(JointTraining) | private_names(SupervisedPlugin)
    foreign = of_strategies | private_names(AvalancheDataset) | private_names(FlatData)
    inherited = {name for names in INHERITED.values() for name in names}
    for file in sorted(PACKAGE.rglob("*.py")):
        accesses = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]
        for node in accesses if str(file.relative_to(PACKAGE)) != FILE else []:
            of_itself = ast.unparse(node.value) in ("self", "super()")
            allowed = (
                node.attr in inherited or node.attr not in of_strategies if of_itself else node.attr not in foreign
            )
            assert allowed, f"{file.name}:{node.lineno} uses {node.attr}"
