"""Backbones, heads, gates and what a model is built from.

A public name is imported on first use, so that a net for images loads nothing of transformers; `__init__.pyi` tells
type checkers what it is.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "adapters": ("Adapter", "Bert", "BertAdapter"),
    "base": ("Backbone", "Context", "ContinualModel", "Site", "row_factor", "weight_factor"),
    "build": ("build_model",),
    "heads": ("SharedHead", "TaskHeads"),
    "image_cnn": ("ImageCNN",),
    "mlp": ("MLP",),
    "states": ("precompute",),
    "tokens": ("BertFrozen", "WordVectors"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(name for names in _HOME.values() for name in names)
