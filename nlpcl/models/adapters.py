"""Adapters in a frozen encoder (Houlsby et al., ICML 2019, https://arxiv.org/abs/1902.00751)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from nlpcl.models.base import Site
from nlpcl.models.encoder import EncoderBackbone, EncoderOptions, Padding, check_layers
from nlpcl.models.pretrained import EncoderLike
from nlpcl.options import option
from nlpcl.ranges import Width
from nlpcl.registry import register_backbone

# An adapter follows each of these modules, the last step of the self-attention block and of the feed-forward block,
# before the residual addition. The first pattern fits BERT, RoBERTa, ELECTRA and their like, the second DistilBERT, the
# third MPNet.
_PLACES = (
    re.compile(r"(.*\.)?layer\.\d+\.(attention\.output|output)\.dropout"),
    re.compile(r"(.*\.)?layer\.\d+\.(attention\.out_lin|ffn\.dropout)"),
    re.compile(r"(.*\.)?layer\.\d+\.(attention|output)\.dropout"),
)
NORMS = re.compile(r"(.*\.)?layer\.\d+\..*(LayerNorm|layer_norm)")


def init_linear(linear: nn.Linear) -> nn.Linear:
    """Draw a layer's weight as BERT does, N(0, 0.02), with bias 0; return the layer."""
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


class Adapter(nn.Module):
    """x + ReLU(W2 ReLU(W1 x + b1) + b2), of shape (B, L, H) -> (B, L, H).

    The second ReLU is the original toolkit's; with it a gate on either layer is a gate on units.

    :param hidden: H.
    :param size: width of the inner layer.
    """

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down = init_linear(nn.Linear(hidden, size))
        self.down_act = nn.ReLU()
        self.up = init_linear(nn.Linear(size, hidden))
        self.up_act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bottleneck(x)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Return what the adapter adds to its input."""
        added: Tensor = self.up_act(self.up(self.down_act(self.down(x))))
        return added

    def sites(self, prefix: str) -> list[Site]:
        """Return the two layers that can be gated."""
        hidden, size = self.down.in_features, self.down.out_features
        return [
            Site(f"{prefix}.down", self.down, self.down_act, size, inputs=((None, hidden),)),
            Site(f"{prefix}.up", self.up, self.up_act, hidden, inputs=((f"{prefix}.down", 1),)),
        ]


def _adapter_places(encoder: PreTrainedModel, layers: int) -> list[str]:
    """Return the names of the modules that adapters follow, two per layer.

    :raises UsageError: the encoder has another shape.
    """
    check_layers(encoder, "bert_adapter")
    names = [name for name, _ in encoder.named_modules()]
    matches = ([name for name in names if pattern.fullmatch(name)] for pattern in _PLACES)
    return next(places for places in matches if len(places) == 2 * layers)


class AdapterOptions(EncoderOptions):
    """The options of an encoder with adapters."""

    adapter_size: Width = option(2000, "width of the adapters' inner layer; 2000 in the original toolkit")


@register_backbone("bert_adapter", title="a frozen encoder with two adapters in each layer")
class BertAdapter(EncoderBackbone):
    """A frozen encoder with Houlsby adapters; adapters and the layers' LayerNorms train.

    :param encoder: as in `EncoderBackbone`; so `padding`.
    """

    options_type = AdapterOptions
    options: AdapterOptions

    def __init__(self, encoder: EncoderLike = "minilm", *, padding: Padding = "dynamic", **options: Any) -> None:
        super().__init__(encoder, padding=padding, **options)
        self.encoder.requires_grad_(False)
        for name, module in self.encoder.model.named_modules():
            if NORMS.fullmatch(name):
                module.requires_grad_(True)
        self.places = _adapter_places(self.encoder.model, self.encoder.model.config.num_hidden_layers)
        for place in self.places:
            module = self.encoder.model.get_submodule(place)
            self._parent(place).register_module(_leaf(place), nn.Sequential(module, nn.Identity()))
        self.set_adapters(lambda hidden: Adapter(hidden, self.options.adapter_size))

    def set_adapters(self, make_adapter: Callable[[int], nn.Module]) -> None:
        """Put `make_adapter(hidden)` at every place of an adapter."""
        for place in self.places:
            cast(nn.Sequential, self.encoder.model.get_submodule(place))[1] = make_adapter(self.width)

    def adapters(self) -> list[nn.Module]:
        """Return the adapters, from input to output."""
        return [cast(nn.Sequential, self.encoder.model.get_submodule(place))[1] for place in self.places]

    def sites(self) -> list[Site]:
        return [site for i, adapter in enumerate(self.adapters()) for site in cast(Adapter, adapter).sites(f"a{i}")]

    def _parent(self, place: str) -> nn.Module:
        return self.encoder.model.get_submodule(place.rpartition(".")[0])


def _leaf(place: str) -> str:
    return place.rpartition(".")[2]
