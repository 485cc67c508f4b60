"""Streams as Avalanche benchmarks, one file each.

A public name is imported on first use, from where `__init__.pyi` says; type checkers read that, too.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

_MODULES = {
    alias.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module is not None
    for alias in node.names
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
