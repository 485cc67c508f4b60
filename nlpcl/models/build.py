"""`build_model`: a model for a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from nlpcl.errors import UsageError
from nlpcl.models.base import Backbone, ContinualModel
from nlpcl.models.data import BenchmarkData
from nlpcl.models.heads import SharedHead, TaskHeads
from nlpcl.registry import DEFAULT_BACKBONES, backbones

if TYPE_CHECKING:
    from nlpcl.models.encoder_files import EncoderLike


def build_model(
    benchmark: BenchmarkData, backbone: str | Backbone | None = None, encoder: EncoderLike | None = None, **options: Any
) -> ContinualModel:
    """Return a model for a benchmark: a backbone, and the heads that the benchmark's tasks need.

    :param benchmark: made by this package; its `scenario` and `n_classes` decide the heads, its `input_shape`
        the size of a backbone for images.
    :param backbone: a backbone or the name of one; None means `bert_adapter` for text, `cnn` for images.
    :param encoder: the encoder of a named backbone for text, as in `load_encoder`; None means the one that the
        benchmark's tokenizer belongs to. A backbone of word vectors takes those that the benchmark holds.
    :param options: further options of a named backbone.
    :raises UsageError: a backbone of word vectors and a benchmark without any, or the other way round; an encoder that
        cannot be loaded or does not belong to the benchmark's tokenizer.
    """
    if not isinstance(backbone, Backbone):
        entry = backbones.get(backbone or DEFAULT_BACKBONES[benchmark.modality])
        vectors = benchmark.vectors
        if bool(entry.words) != (vectors is not None):
            raise UsageError(
                f"backbone {entry.name} reads {'whole words' if entry.words else 'no whole words'}: make the benchmark "
                f"with tokenizer={'Words(file)' if entry.words else 'an encoder'}."
            )
        reads: Any
        if vectors is not None:
            reads = vectors.matrix
        elif entry.modality == "image":
            reads = benchmark.input_shape
        else:
            from nlpcl.models.encoder import encoder_for

            reads = encoder_for(benchmark, encoder)
        backbone = cast(Backbone, entry.target(reads, **options))
    if benchmark.modality == "text":
        from nlpcl.models.encoder import TextEncoder, check_pair
        from nlpcl.models.frozen import BertFrozen

        reader, states = getattr(backbone, "encoder", None), benchmark.states
        if isinstance(reader, TextEncoder):
            check_pair(benchmark, reader)
            if states is not None and isinstance(backbone, BertFrozen):
                if states.encoder != reader.name:
                    raise UsageError(f"the states are those of {states.encoder}, and the encoder is {reader.name}.")
                backbone.states = states
    classes = benchmark.n_classes
    if benchmark.scenario == "til":
        return ContinualModel(backbone, TaskHeads(backbone.width, classes))
    return ContinualModel(backbone, SharedHead(backbone.width, max(classes), len(classes)))
