"""Backbones of frozen token vectors, those of an encoder or of words, and the nets that read them."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models.base import Site, TaskLabels
from nlpcl.models.encoder import PackedEncoder, Padding, TextBackbone, TextEncoder
from nlpcl.models.encoder_files import EncoderLike
from nlpcl.models.states import TokenStates
from nlpcl.options import Options, option
from nlpcl.ranges import Layers, NotAll, Width
from nlpcl.registry import register_backbone

Net = Literal["cnn", "gru"]
WINDOWS = (3, 4, 5)


class TokenNet(nn.Module):
    """A net that turns each text's token vectors into one feature of width `width`.

    Called with vectors (B, L, C) and a mask (B, L), True on the leading real tokens, it gives features (B, width).
    """

    width: int

    def sites(self) -> list[Site]:
        """As `Backbone.sites`. A recurrent net has none: no gate could follow one of its units."""
        return []


class TextCNN(TokenNet):
    """Convolutions over windows of 3, 4 and 5 tokens, the maximum over positions, ReLU, fully connected layers.

    Kim, EMNLP 2014, https://arxiv.org/abs/1408.5882. A window lies within the text; a text shorter than the window is
    one window, filled up with zeros. So nothing depends on the padding. The ReLU comes after the maximum, which gives
    the same; so does a gate, as it is not negative and the same at every position. Dropout follows every fully
    connected layer, and the maxima only where there is no such layer, as in the original toolkit.

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


def last_state(states: Tensor, mask: Tensor) -> Tensor:
    """Return from states (B, L, H) the one at each text's last real token, (B, H).

    :param mask: (B, L), True on the leading real tokens; a text without any counts as one token.
    """
    last = mask.sum(dim=1).clamp(min=1) - 1
    return states[torch.arange(len(states), device=states.device), last]


class TextGRU(TokenNet):
    """One layer of gated recurrent units, read from left to right; the feature is the state at the last real token.

    Cho et al., EMNLP 2014, https://arxiv.org/abs/1406.1078. Nothing depends on the padding. A unit's gates, its input
    and its recurrence share weight tensors that no single gate could follow, so there are no sites.

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


class TokenOptions(Options):
    """The options of a net on token vectors."""

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
    hidden: Width | None = option(
        None, "width of the fully connected layers, or number of recurrent units; None means the encoder's width"
    )


class TokenBackbone(TextBackbone):
    """A backbone whose `net` reads token vectors from a frozen `encoder`.

    :param encoder: gives a vector for each token.
    """

    options_type: ClassVar[type[Options]] = TokenOptions
    options: TokenOptions
    net: TokenNet
    """A method may put another one of the same width in its place."""

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
        self.states: TokenStates | None = None
        """States of examples (4, L), which are read and not computed, unless with `parity`; None if there are none."""

    def tokens(self, x: Tensor, task_labels: TaskLabels) -> tuple[Tensor, Tensor]:
        """Return token vectors (B, L', C), without a graph, and their mask (B, L'), which `context` then holds.

        The mask is True on real tokens, with `parity` on all.
        """
        x = self.encoder.prepare(x)
        source = self.encoder if self.states is None or x.shape[1] != 4 or self.parity else self.states
        with torch.no_grad():
            vectors, _, mask = source(x)
        return vectors, self.start(mask, task_labels)

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        features: Tensor = self.net(*self.tokens(x, task_labels))
        return features

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the token vectors and their mask."""
        return self.tokens(x, 0)

    def features_of(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> Tensor:
        assert mask is not None
        self.context.start(task_labels, mask)
        features: Tensor = self.net(embedded, mask)
        return features

    def allow_second_derivatives(self) -> None:
        """Do without cuDNN's recurrent nets, which have none."""
        if isinstance(self.net, TextGRU):
            self.net.cudnn = False

    def sites(self) -> list[Site]:
        return self.net.sites()


@register_backbone(
    "bert_frozen", title="a frozen encoder and a convolutional or recurrent net on its last states", frozen=True
)
class BertFrozen(TokenBackbone):
    """Nothing of the encoder trains, and its dropout is off; the net on top trains.

    So an example's token states never change: `precompute` computes them once.

    :param encoder: `minilm`, a local folder, a hub name, or a loaded encoder, which is copied.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    """

    def __init__(self, encoder: EncoderLike = "minilm", *, padding: Padding = "dynamic", **options: Any) -> None:
        super().__init__(TextEncoder(encoder, padding=padding), **options)

    def train(self, mode: bool = True) -> BertFrozen:
        """Set the mode of everything but the encoder, whose dropout stays off unless with `parity`."""
        super().train(mode)
        self.encoder.train(mode and self.parity)
        return self


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

    hidden: Width | None = option(
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
