"""A recurrent net over token vectors (Cho et al., EMNLP 2014, https://arxiv.org/abs/1406.1078)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from nlpcl.models.base import Site


def last_state(states: Tensor, mask: Tensor) -> Tensor:
    """Return from states (B, L, H) the one at each text's last real token, (B, H).

    :param mask: (B, L), True on the leading real tokens; a text without any counts as one token.
    """
    last = mask.sum(dim=1).clamp(min=1) - 1
    return states[torch.arange(len(states), device=states.device), last]


class TextGRU(nn.Module):
    """One layer of gated recurrent units, read from left to right; the feature is the state at the last real token.

    So nothing depends on the padding. A unit's gates, its input and its recurrence share weight tensors that no
    single gate could follow, so there are no sites.

    :param channels: width of a token vector.
    :param hidden: number of units.
    :param dropout: probability of dropping a unit of the output.
    """

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.width = hidden
        self.gru = nn.GRU(channels, hidden, batch_first=True)
        self.cudnn = True
        """True where cuDNN may compute the net. cuDNN gives recurrent nets no second derivative."""
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, hidden) of x (B, L, channels); mask (B, L) is True on the leading real tokens."""
        features: Tensor = self.dropout(last_state(self.states(x), mask))
        return features

    def states(self, x: Tensor) -> Tensor:
        """Return the states (B, L, hidden) after every token of x (B, L, channels)."""
        states: Tensor
        with nullcontext() if self.cudnn else torch.backends.cudnn.flags(enabled=False):
            states, _ = self.gru(x)
        return states

    def sites(self) -> list[Site]:
        """Return no sites: no gate could follow a unit."""
        return []
