"""The tests themselves: each asserts something, none imports another, none patches a private name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
FILES = sorted(TESTS.rglob("*.py"))
# Functions that fail by themselves: pytest's, and those of torch, numpy and pandas.
ASSERTING = {"raises", "warns", "fail", "assert_close", "assert_allclose", "assert_frame_equal"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def syntax(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield module, name there and name here of everything that a file imports by name."""
    for node in ast.walk(syntax(file)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, alias.asname or alias.name) for alias in node.names)


@cache
def asserting(file: Path) -> frozenset[str]:
    """Return the names in `file` of functions that assert: by themselves, by a function they call, or by a helper."""
    known = set()
    for module, name, here in imported(file):
        helper = TESTS.parent.joinpath(*module.split(".")).with_suffix(".py")
        if module.startswith("tests.helpers.") and name in asserting(helper):
            known.add(here)
    functions = [node for node in ast.walk(syntax(file)) if isinstance(node, Function)]
    while new := {function.name for function in functions if asserts(function, known)} - known:
        known |= new
    return frozenset(known)


def asserts(function: Function, known: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in known | ASSERTING:
                return True
            if isinstance(called, ast.Attribute) and called.attr in ASSERTING:
                return True
    return False


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_test_asserts(file: Path) -> None:
    tests = {node.name for node in syntax(file).body if isinstance(node, Function) and node.name.startswith("test_")}
    assert tests <= asserting(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_test_imports_another(file: Path) -> None:
    others = [module for module, *_ in imported(file) if module.startswith("tests.")]
    assert all(module.startswith("tests.helpers.") for module in others), others


def patched(file: Path) -> Iterator[str]:
    """Yield the attribute or dictionary that each patch of a file names, and each method that it replaces."""
    for node in ast.walk(syntax(file)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            yield from (target.attr for target in node.targets if isinstance(target, ast.Attribute))
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        names = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
        if node.func.attr in ("setattr", "delattr", "object"):
            yield from (name for name in names if isinstance(name, str))
        if node.func.attr in ("setattr", "delattr", "object", "dict", "setitem", "multiple"):
            yield from (arg.attr for arg in node.args[:1] if isinstance(arg, ast.Attribute))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_test_patches_a_private_name(file: Path) -> None:
    names = {name.rpartition(".")[2] for name in patched(file)}
    assert not [name for name in names if name.startswith("_") and not name.endswith("__")]
