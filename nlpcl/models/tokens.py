"""A backbone made of token vectors and a net that reads them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from torch import Tensor

from nlpcl.models.base import Backbone, Site, TaskLabels


class TokenNet(Protocol):
    """A module that makes a feature of width `width` of each text's token vectors."""

    width: int

    def __call__(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Features (B, width) of vectors (B, L, C); mask (B, L) is True on the leading real tokens."""
        ...

    def sites(self) -> list[Site]:
        """As `Backbone.sites`."""
        ...


class TokenBackbone(Backbone):
    """A backbone whose `net` reads token vectors.

    A subclass sets `net` and `width`, and says in `tokens` where the vectors come from.
    """

    net: TokenNet

    @abstractmethod
    def tokens(self, x: Tensor, task_labels: TaskLabels) -> tuple[Tensor, Tensor]:
        """Token vectors (B, L', C), without a graph, and mask (B, L') of the inputs `x`, noted in `context`.

        The mask is True on real tokens, with `parity` on all.
        """

    def set_net(self, net: TokenNet) -> None:
        """Put `net`, of the same width, where the present one stands.

        :raises ValueError: it has another width than the heads were built for.
        """
        if net.width != self.width:
            raise ValueError(f"the heads take features of width {self.width}, not {net.width}")
        self.net = net

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        return self.net(*self.tokens(x, task_labels))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As in `Backbone`: the token vectors and their mask."""
        return self.tokens(x, 0)

    def features_of(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> Tensor:
        assert mask is not None
        self.context.start(task_labels, mask)
        return self.net(embedded, mask)

    def sites(self) -> list[Site]:
        return self.net.sites()
