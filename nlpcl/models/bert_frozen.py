"""A frozen encoder whose token states a convolutional net reads."""

from __future__ import annotations

import torch
from torch import Tensor

from nlpcl.models.base import Backbone, Site, TaskLabels
from nlpcl.models.encoder import Padding, TextEncoder
from nlpcl.models.text_cnn import TextCNN
from nlpcl.registry import register_backbone


@register_backbone("bert_frozen", title="a frozen encoder and Kim's convolutional net on its last hidden states")
class BertFrozen(Backbone):
    """Nothing of the encoder trains, and its dropout is off; the convolutional net on top trains.

    :param encoder: `minilm`, a local folder or a hub name.
    :param filters: filters of each window size, 3, 4 and 5; 100 in Kim's paper and the original toolkit.
    :param layers: fully connected layers after the convolutions; the original toolkit has 2 for HAT and OWM, else 0.
    :param hidden: their width; None: the encoder's.
    :param dropout: probability of dropping a feature unit; 0.5 in Kim's paper and the original toolkit.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    """

    def __init__(
        self,
        encoder: str = "minilm",
        *,
        filters: int = 100,
        layers: int = 0,
        hidden: int | None = None,
        dropout: float = 0.5,
        padding: Padding = "dynamic",
    ) -> None:
        super().__init__()
        self.encoder = TextEncoder(encoder, padding=padding).requires_grad_(False)
        self.cnn = TextCNN(self.encoder.width, filters, layers, hidden or self.encoder.width, dropout)
        self.width = self.cnn.width

    def train(self, mode: bool = True) -> BertFrozen:
        """Training mode for all but the encoder, whose dropout stays off unless with `parity`."""
        super().train(mode)
        self.encoder.train(mode and self.parity)
        return self

    def set_parity(self) -> None:
        """As in `Backbone`; batches are not trimmed, and the encoder keeps its dropout."""
        super().set_parity()
        self.encoder.padding = "fixed"

    def trimmed(self, x: Tensor) -> Tensor:
        return self.encoder.prepare(x)

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        x = self.encoder.prepare(x)
        with torch.no_grad():
            hidden, _, mask = self.encoder(x)
        mask = torch.ones_like(mask) if self.parity else mask
        self.context.start(task_labels, mask)
        return self.cnn(hidden, mask)

    def sites(self) -> list[Site]:
        return self.cnn.sites()
