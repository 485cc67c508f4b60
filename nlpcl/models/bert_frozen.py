"""A frozen encoder whose token states a convolutional or a recurrent net reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nlpcl.errors import UsageError
from nlpcl.models.encoder import Encoded, Padding, TextEncoder
from nlpcl.models.pretrained import EncoderLike
from nlpcl.models.states import TokenStates
from nlpcl.models.tokens import TokenBackbone, TokenOptions
from nlpcl.options import option
from nlpcl.ranges import Width
from nlpcl.registry import register_backbone


class FrozenOptions(TokenOptions):
    """The options of a net on a frozen encoder."""

    hidden: Width | None = option(
        None, "width of the fully connected layers, or number of recurrent units; None means the encoder's width"
    )


@register_backbone(
    "bert_frozen", title="a frozen encoder and a convolutional or recurrent net on its last states", frozen=True
)
class BertFrozen(TokenBackbone):
    """Nothing of the encoder trains, and its dropout is off; the net on top trains.

    So an example's token states never change: `precompute` computes them once.

    :param encoder: `minilm`, a local folder, a hub name, or a loaded encoder, which is copied.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    """

    options_type = FrozenOptions
    options: FrozenOptions

    def __init__(self, encoder: EncoderLike = "minilm", *, padding: Padding = "dynamic", **options: Any) -> None:
        words = TextEncoder(encoder, padding=padding)
        super().__init__(words, **options)
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
