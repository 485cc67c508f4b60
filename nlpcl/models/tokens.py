"""A backbone made of frozen token vectors and a net that reads them."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nlpcl.models.base import Backbone, Site, TaskLabels
from nlpcl.models.encoder import Encoded, PackedEncoder
from nlpcl.models.text_cnn import TextCNN
from nlpcl.models.text_gru import TextGRU
from nlpcl.options import Options, option
from nlpcl.ranges import Layers, NotAll, Width

Net = Literal["cnn", "gru"]


class TokenNet(Protocol):
    """A module that turns each text's token vectors into one feature of width `width`."""

    width: int

    def __call__(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, width) of vectors (B, L, C); mask (B, L) is True on the leading real tokens."""
        ...

    def sites(self) -> list[Site]:
        """As `Backbone.sites`."""
        ...


class TokenOptions(Options):
    """The options of a backbone that reads token vectors, but for `hidden`, whose default depends on the vectors."""

    net: Net = option(
        "cnn",
        "Kim's convolutional net (`cnn`), or gated recurrent units (`gru`), whose state at the last token is the "
        "feature; the original toolkit has the latter for KAN and SRK",
    )
    filters: Width = option(100, "filters of each window size, 3, 4 and 5; 100 in Kim's paper and the original toolkit")
    layers: Layers = option(
        0, "fully connected layers after the convolutions; the original toolkit has 2 for HAT and OWM, else 0"
    )
    dropout: NotAll = option(
        0.5,
        "probability of dropping a feature unit; 0.5 in Kim's paper and the original toolkit, which has none after "
        "recurrent units",
    )


class TokenBackbone(Backbone):
    """A backbone whose `net` reads token vectors from a frozen `encoder`.

    :param encoder: gives a vector for each token.
    """

    net: TokenNet

    def __init__(self, encoder: PackedEncoder, **options: Any) -> None:
        super().__init__(**options)
        net = self.options
        hidden = net.hidden or encoder.width
        self.encoder = encoder.requires_grad_(False)
        if net.net == "gru":
            self.net = TextGRU(encoder.width, hidden, net.dropout)
        else:
            self.net = TextCNN(encoder.width, net.filters, net.layers, hidden, net.dropout)
        self.width = self.net.width

    def set_parity(self) -> None:
        """Do as `Backbone.set_parity`, and trim no batches."""
        super().set_parity()
        self.encoder.padding = "fixed"

    def trimmed(self, x: Tensor) -> Tensor:
        return self.encoder.prepare(x)

    def tokens(self, x: Tensor, task_labels: TaskLabels) -> tuple[Tensor, Tensor]:
        """Return token vectors (B, L', C), without a graph, and their mask (B, L'), which `context` then holds.

        The mask is True on real tokens, with `parity` on all.
        """
        x = self.encoder.prepare(x)
        with torch.no_grad():
            vectors, _, mask = self.encode(x)
        mask = torch.ones_like(mask) if self.parity else mask
        self.context.start(task_labels, mask)
        return vectors, mask

    def encode(self, x: Tensor) -> Encoded:
        """Return what the encoder gives for trimmed inputs."""
        encoded: Encoded = self.encoder(x)
        return encoded

    def set_net(self, net: TokenNet) -> None:
        """Put another net of the same width in the place of the present one.

        :raises ValueError: it has another width than the heads were built for.
        """
        if net.width != self.width:
            raise ValueError(f"the heads take features of width {self.width}, not {net.width}")
        self.net = net

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        return self.net(*self.tokens(x, task_labels))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the token vectors and their mask."""
        return self.tokens(x, 0)

    def features_of(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> Tensor:
        assert mask is not None
        self.context.start(task_labels, mask)
        return self.net(embedded, mask)

    def allow_second_derivatives(self) -> None:
        """Do without cuDNN's recurrent nets, which have none."""
        if isinstance(self.net, TextGRU):
            self.net.cudnn = False

    def sites(self) -> list[Site]:
        return self.net.sites()
