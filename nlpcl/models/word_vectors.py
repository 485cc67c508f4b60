"""Frozen word vectors that a convolutional or a recurrent net reads."""

from __future__ import annotations

from torch import Tensor, nn

from nlpcl.models.encoder import PackedEncoder, Padding
from nlpcl.models.tokens import Net, TokenBackbone
from nlpcl.ranges import Layers, NotAll, Width
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


@register_backbone(
    "w2v", title="frozen word vectors and a net on them; of a pair the second text alone", words="second"
)
@register_backbone("w2v_as", title="frozen word vectors and a net on them; a pair as one text", words="both")
class WordVectors(TokenBackbone):
    """Nothing of the vectors trains; the net on top does.

    :param encoder: FloatTensor (V, D), a vector by id, as in `benchmark.vectors.matrix`.
    :param net: Kim's convolutional net (`cnn`), or gated recurrent units (`gru`), as in `BertFrozen`.
    :param filters: filters of each window size, 3, 4 and 5; 100 in Kim's paper and the original toolkit.
    :param layers: fully connected layers after the convolutions; the original toolkit has 2 for HAT and OWM, else 0.
    :param hidden: their width, or the number of recurrent units; 300 in the original toolkit.
    :param dropout: probability of dropping a feature unit; 0.5 in Kim's paper and the original toolkit, which has none
        after recurrent units.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    :raises UsageError: unknown net.
    """

    def __init__(
        self,
        encoder: Tensor,
        *,
        net: Net = "cnn",
        filters: Width = 100,
        layers: Layers = 0,
        hidden: Width = 300,
        dropout: NotAll = 0.5,
        padding: Padding = "dynamic",
    ) -> None:
        super().__init__(WordEncoder(encoder, padding), net, filters, layers, hidden, dropout)
