"""Frozen word vectors that a convolutional or a recurrent net reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nlpcl.models.encoder import PackedEncoder, Padding
from nlpcl.models.tokens import TokenBackbone, TokenOptions
from nlpcl.options import option
from nlpcl.ranges import Width
from nlpcl.registry import register_backbone


class WordEncoder(PackedEncoder):
    """Frozen word vectors in the place of a `TextEncoder`.

    :param vectors: FloatTensor (V, D), a vector by id.
    :param padding: as in `TextEncoder`.
    """

    def __init__(self, vectors: Tensor, padding: Padding = "dynamic") -> None:
        super().__init__(vectors.shape[1], padding)
        # A copy, so that loading a state does not change the benchmark's vectors.
        self.model = nn.Embedding.from_pretrained(vectors.clone(), freeze=True, padding_idx=0)

    def forward(self, x: Tensor) -> tuple[Tensor, None, Tensor]:
        """Return vectors (B, L', D), no pooled output, and the mask (B, L')."""
        ids, mask, _ = x.unbind(dim=1)
        return self.model(ids), None, mask.bool()


class WordVectorOptions(TokenOptions):
    """The options of a net on word vectors."""

    hidden: Width = option(
        300, "width of the fully connected layers, or number of recurrent units; 300 in the original toolkit"
    )


@register_backbone(
    "w2v", title="frozen word vectors and a net on them; of a pair the second text alone", words="second"
)
@register_backbone("w2v_as", title="frozen word vectors and a net on them; a pair as one text", words="both")
class WordVectors(TokenBackbone):
    """Nothing of the vectors trains; the net on top does.

    :param encoder: FloatTensor (V, D), a vector by id, as in `benchmark.vectors.matrix`.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    """

    options_type = WordVectorOptions
    options: WordVectorOptions

    def __init__(self, encoder: Tensor, *, padding: Padding = "dynamic", **options: Any) -> None:
        super().__init__(WordEncoder(encoder, padding), **options)
