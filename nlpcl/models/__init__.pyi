"""The public names of `nlpcl.models`; `__init__.py` reads them here and imports each on first use."""

from .adapters import Adapter, Bert, BertAdapter
from .base import Backbone, Context, ContinualModel, Site, row_factor, weight_factor
from .build import build_model
from .heads import SharedHead, TaskHeads
from .image_cnn import ImageCNN
from .mlp import MLP
from .states import precompute
from .tokens import BertFrozen, WordVectors

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
