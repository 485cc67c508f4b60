"""Backbones, heads, gates and what a model is built from.

Names are imported on first use, so that a net for images loads nothing of transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlpcl.models.adapters import Adapter, BertAdapter
    from nlpcl.models.base import Backbone, Context, ContinualModel, Site, row_factor, weight_factor
    from nlpcl.models.bert import Bert
    from nlpcl.models.bert_frozen import BertFrozen
    from nlpcl.models.build import build_model
    from nlpcl.models.heads import SharedHead, TaskHeads
    from nlpcl.models.image_cnn import ImageCNN
    from nlpcl.models.mlp import MLP
    from nlpcl.models.states import precompute
    from nlpcl.models.word_vectors import WordVectors

_MODULES = {
    **dict.fromkeys(("Adapter", "BertAdapter"), "adapters"),
    **dict.fromkeys(("Backbone", "Context", "ContinualModel", "Site", "row_factor", "weight_factor"), "base"),
    **dict.fromkeys(("SharedHead", "TaskHeads"), "heads"),
    **{"Bert": "bert", "BertFrozen": "bert_frozen", "ImageCNN": "image_cnn", "MLP": "mlp"},
    **{"WordVectors": "word_vectors", "build_model": "build", "precompute": "states"},
}

__all__ = [
    "MLP",
    "Adapter",
    "Backbone",
    "Bert",
    "BertAdapter",
    "BertFrozen",
    "Context",
    "ContinualModel",
    "ImageCNN",
    "SharedHead",
    "Site",
    "TaskHeads",
    "WordVectors",
    "build_model",
    "precompute",
    "row_factor",
    "weight_factor",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nlpcl.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nlpcl.models.{_MODULES[name]}"), name)
