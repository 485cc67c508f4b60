"""Backbones, heads, gates and capsules."""

from __future__ import annotations

from typing import Any

from nlpcl.errors import UsageError
from nlpcl.models.adapters import Adapter, BertAdapter
from nlpcl.models.base import Backbone, Context, ContinualModel, Site, row_factor, weight_factor
from nlpcl.models.bert import Bert
from nlpcl.models.bert_frozen import BertFrozen
from nlpcl.models.encoder import TextEncoder
from nlpcl.models.heads import SharedHead, TaskHeads
from nlpcl.models.image_cnn import ImageCNN
from nlpcl.models.mlp import MLP
from nlpcl.models.pairing import check_pair, encoder_for
from nlpcl.models.pretrained import EncoderLike
from nlpcl.models.states import precompute
from nlpcl.models.word_vectors import WordVectors
from nlpcl.registry import DEFAULT_BACKBONES, backbones


def build_model(
    benchmark: Any, backbone: str | Backbone | None = None, encoder: EncoderLike | None = None, **options: Any
) -> ContinualModel:
    """A model for a benchmark: a backbone, and the heads the benchmark's tasks need.

    :param benchmark: made by this package; its `scenario` and `n_classes` decide the heads, its `input_shape`
        the size of a backbone for images.
    :param backbone: a backbone or the name of one; None: `bert_adapter` for text, `cnn` for images.
    :param encoder: the encoder of a named backbone for text: a name, a folder or a loaded one; None: the one that the
        benchmark's tokenizer belongs to. A backbone of word vectors takes those that the benchmark holds.
    :param options: further options of a named backbone.
    :raises UsageError: a backbone of word vectors and a benchmark without any, or the other way round; an encoder that
        cannot be loaded or does not belong to the benchmark's tokenizer.
    """
    if backbone is None:
        backbone = DEFAULT_BACKBONES[benchmark.modality]
    if isinstance(backbone, str):
        entry = backbones.get(backbone)
        vectors = getattr(benchmark, "vectors", None)
        if bool(entry.words) != (vectors is not None):
            raise UsageError(
                f"backbone {entry.name} reads {'whole words' if entry.words else 'no whole words'}: make the benchmark "
                f"with tokenizer={'Words(file)' if entry.words else 'an encoder'}."
            )
        if vectors is not None:
            takes = vectors.matrix
        else:
            takes = benchmark.input_shape if entry.modality == "image" else encoder_for(benchmark, encoder)
        backbone = entry.target(takes, **options)
    assert isinstance(backbone, Backbone)
    words = getattr(backbone, "encoder", None)
    if isinstance(words, TextEncoder) and benchmark.modality == "text":
        check_pair(benchmark, words)
    states = getattr(benchmark, "states", None)
    if states is not None and isinstance(backbone, BertFrozen):
        backbone.use_states(states)
    classes: list[int] = benchmark.n_classes
    if benchmark.scenario == "til":
        return ContinualModel(backbone, TaskHeads(backbone.width, classes))
    return ContinualModel(backbone, SharedHead(backbone.width, max(classes), len(classes)))


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
