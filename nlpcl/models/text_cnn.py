"""A convolutional net over token vectors (Kim, EMNLP 2014, https://arxiv.org/abs/1408.5882)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models.base import Site

WINDOWS = (3, 4, 5)


class TextCNN(nn.Module):
    """Convolutions over windows of 3, 4 and 5 tokens, the maximum over positions, ReLU, fully connected layers.

    A window lies within the text; a text shorter than the window is one window, filled up with zeros. So nothing
    depends on the padding. The ReLU comes after the maximum, which gives the same; so does a gate, as it is not
    negative and the same at every position. Dropout follows every fully connected layer, and the maxima only where
    there is no such layer, as in the original toolkit.

    :param channels: width of a token vector.
    :param filters: filters of each window size.
    :param layers: number of fully connected layers.
    :param hidden: their width.
    :param dropout: probability of dropping a unit of the output, and between fully connected layers.
    """

    def __init__(self, channels: int, filters: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.filters = filters
        self.convolutions = nn.ModuleList(nn.Conv1d(channels, filters, window) for window in WINDOWS)
        widths = [len(WINDOWS) * filters, *[hidden] * layers]
        self.linears = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(len(WINDOWS) + layers))
        self.dropout = nn.Dropout(dropout)
        self.width = widths[-1]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, width) of x (B, L, channels); mask (B, L) is True on the leading real tokens."""
        x = (x * mask.unsqueeze(-1)).transpose(1, 2)
        x = F.pad(x, (0, WINDOWS[-1] - 1))
        lengths = mask.sum(dim=1, keepdim=True)
        best = []
        for window, convolution, act in zip(WINDOWS, self.convolutions, self.activations, strict=False):
            out = convolution(x)
            outside = torch.arange(out.shape[2], device=x.device) >= (lengths - window + 1).clamp(min=1)
            best.append(act(out.masked_fill(outside.unsqueeze(1), float("-inf")).amax(dim=2)))
        features = torch.cat(best, dim=1)
        for linear, act in zip(self.linears, self.activations[len(WINDOWS) :], strict=True):
            features = self.dropout(act(linear(features)))
        return features if len(self.linears) else self.dropout(features)

    def sites(self) -> list[Site]:
        """Return all layers, from input to output."""
        maxima = [f"conv{window}" for window in WINDOWS]
        sites = [
            Site(name, layer, act, self.filters, inputs=((None, self.channels),))
            for name, layer, act in zip(maxima, self.convolutions, self.activations, strict=False)
        ]
        inputs: tuple[tuple[str | None, int], ...] = tuple((name, 1) for name in maxima)
        for i, (layer, act) in enumerate(zip(self.linears, self.activations[len(WINDOWS) :], strict=True), 1):
            sites.append(Site(f"fc{i}", layer, act, self.width, inputs=inputs))
            inputs = ((f"fc{i}", 1),)
        return sites
