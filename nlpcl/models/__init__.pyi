"""The public names of `nlpcl.models` for type checkers; `__init__.py` imports them on first use."""

from nlpcl.models.adapters import Adapter, Bert, BertAdapter
from nlpcl.models.base import Backbone, Context, ContinualModel, Site, row_factor, weight_factor
from nlpcl.models.build import build_model
from nlpcl.models.heads import SharedHead, TaskHeads
from nlpcl.models.image_cnn import ImageCNN
from nlpcl.models.mlp import MLP
from nlpcl.models.states import precompute
from nlpcl.models.tokens import BertFrozen, WordVectors

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
