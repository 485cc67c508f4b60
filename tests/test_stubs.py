"""`stubs/avalanche` says only what the installed Avalanche has, so an upgrade that takes something away fails here."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STUBS = Path(__file__).parent.parent / "stubs"
FILES = sorted(STUBS.rglob("*.pyi"))
OF_THE_STUB = "_Dataset"  # a protocol that Avalanche has under another name, where nothing exports it


def faults(stub: str, owner: ModuleType | type) -> list[str]:
    """Return which names of a stub's text `owner` lacks, or has with other parameters."""
    return [fault for node in ast.parse(stub).body for fault in _faults(node, owner)]


def _faults(node: ast.stmt, owner: ModuleType | type) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names if alias.asname]  # `import X as X` says that the module has X
        return [f"no {name}" for name in names if not hasattr(owner, name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [] if _has_attribute(owner, node.target.id) else [f"no {node.target.id}"]
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name == OF_THE_STUB:
        return []
    if not hasattr(owner, node.name):
        return [f"no {node.name}"]
    if isinstance(node, ast.FunctionDef):
        return [f"{node.name}: {fault}" for fault in _parameter_faults(node, owner)]
    cls = getattr(owner, node.name)
    bases = {base.id for base in map(_without_parameters, node.bases) if isinstance(base, ast.Name)}
    lacking = bases - {base.__name__ for base in cls.__mro__} - {"Protocol", "Sequence"}
    inner = [fault for child in node.body for fault in _faults(child, cls)]
    return [f"{node.name}: {fault}" for fault in [*(f"no base {base}" for base in sorted(lacking)), *inner]]


def _without_parameters(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base


def _has_attribute(owner: ModuleType | type, name: str) -> bool:
    """Return whether a module or class has a name, or the class's code sets it on its objects."""
    if hasattr(owner, name):
        return True
    sources = [inspect.getsource(cls) for cls in owner.__mro__[:-1] if cls.__module__.startswith("avalanche")]
    return any(re.search(rf"\bself\.{name}\b\s*(:[^=\n]+)?=[^=]", source) for source in sources)


def _parameter_faults(node: ast.FunctionDef, owner: ModuleType | type) -> list[str]:
    declared = inspect.getattr_static(owner, node.name)
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if "property" in decorators or any(name.endswith(".setter") for name in decorators):
        return [] if isinstance(declared, property) else ["no property"]
    parameters = inspect.signature(getattr(owner, node.name)).parameters
    kinds: dict[str, Any] = {name: parameter.kind for name, parameter in parameters.items()}
    positional = [name for name, kind in kinds.items() if kind in (0, 1)]
    if isinstance(declared, classmethod) or node.name == "__init_subclass__":
        positional.insert(0, node.args.args[0].arg)  # a bound method shows no class
    stubs = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
    found = [] if stubs == positional[: len(stubs)] else [f"takes {positional}, not {stubs}"]
    return [*found, *(f"no {a.arg}" for a in node.args.kwonlyargs if kinds.get(a.arg) not in (1, 3))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(STUBS).with_suffix("")))
def test_the_installed_avalanche_has_what_a_stub_names(file: Path) -> None:
    parts = file.relative_to(STUBS).with_suffix("").parts
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    assert faults(file.read_text(), module) == []


@pytest.mark.parametrize(
    ("stub", "fault"),
    [
        ("class Lost: ...", "no Lost"),
        ("class BasePlugin:\n    def before_nothing(self) -> None: ...", "BasePlugin: no before_nothing"),
        ("class BasePlugin:\n    lost: int", "BasePlugin: no lost"),
        ("class BasePlugin:\n    def before_eval(self, plan) -> None: ...", "BasePlugin: before_eval: takes"),
        ("class BasePlugin:\n    def before_eval(self, strategy, *, plan) -> None: ...", "no plan"),
        ("class SupervisedPlugin(Lost): ...", "SupervisedPlugin: no base Lost"),
        ("from avalanche.core import Lost as Lost", "no Lost"),
    ],
)
def test_what_the_installed_avalanche_lacks_is_noticed(stub: str, fault: str) -> None:
    (found,) = faults(stub, importlib.import_module("avalanche.core"))
    assert fault in found
