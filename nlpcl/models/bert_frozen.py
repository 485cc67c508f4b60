"""A frozen encoder whose token states a convolutional or a recurrent net reads."""

from __future__ import annotations

from torch import Tensor

from nlpcl.errors import UsageError
from nlpcl.models.encoder import Encoded, Padding, TextEncoder
from nlpcl.models.pretrained import EncoderLike
from nlpcl.models.states import TokenStates
from nlpcl.models.tokens import Net, TokenBackbone
from nlpcl.ranges import Layers, NotAll, Width
from nlpcl.registry import register_backbone


@register_backbone(
    "bert_frozen", title="a frozen encoder and a convolutional or recurrent net on its last states", frozen=True
)
class BertFrozen(TokenBackbone):
    """Nothing of the encoder trains, and its dropout is off; the net on top trains.

    So an example's token states never change: `precompute` computes them once.

    :param encoder: `minilm`, a local folder, a hub name, or a loaded encoder, which is copied.
    :param net: Kim's convolutional net (`cnn`), or gated recurrent units (`gru`), whose state at the last token is the
        feature; the original toolkit has the latter for KAN and SRK.
    :param filters: filters of each window size, 3, 4 and 5; 100 in Kim's paper and the original toolkit.
    :param layers: fully connected layers after the convolutions; the original toolkit has 2 for HAT and OWM, else 0.
    :param hidden: their width, or the number of recurrent units; None: the encoder's width.
    :param dropout: probability of dropping a feature unit; 0.5 in Kim's paper and the original toolkit, which has none
        after recurrent units.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    :raises UsageError: unknown net.
    """

    def __init__(
        self,
        encoder: EncoderLike = "minilm",
        *,
        net: Net = "cnn",
        filters: Width = 100,
        layers: Layers = 0,
        hidden: Width | None = None,
        dropout: NotAll = 0.5,
        padding: Padding = "dynamic",
    ) -> None:
        words = TextEncoder(encoder, padding=padding)
        super().__init__(words, net, filters, layers, hidden or words.width, dropout)
        self.name = words.name
        self.states: TokenStates | None = None

    def use_states(self, states: TokenStates) -> None:
        """Read the states of examples (4, L) from now on instead of computing them, unless with `parity`.

        :raises UsageError: they are another encoder's.
        """
        if states.encoder != self.name:
            raise UsageError(f"the states are those of {states.encoder}, and the backbone's encoder is {self.name}.")
        self.states = states

    def encode(self, x: Tensor) -> Encoded:
        if self.states is None or x.shape[1] != 4 or self.parity:
            return super().encode(x)
        encoded: Encoded = self.states(x)
        return encoded

    def train(self, mode: bool = True) -> BertFrozen:
        """Set the mode of everything but the encoder, whose dropout stays off unless with `parity`."""
        super().train(mode)
        self.encoder.train(mode and self.parity)
        return self
