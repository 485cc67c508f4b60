"""The public names of `nlpcl.models`; `__init__.py` reads them here and imports each on first use."""

from .adapters import Adapter, Bert, BertAdapter
from .base import Backbone, Context, ContinualModel, Site, row_factor, weight_factor
from .build import build_model
from .frozen import BertFrozen, WordVectors
from .heads import SharedHead, TaskHeads
from .images import MLP, ImageCNN
from .states import precompute

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
