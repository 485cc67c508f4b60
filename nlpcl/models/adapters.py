"""Backbones that train inside an encoder: all of its layers, or adapters in the frozen one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from nlpcl.models.base import Site, chained_sites
from nlpcl.models.encoder import EncoderBackbone, EncoderOptions, Padding, check_layers
from nlpcl.models.encoder_files import EncoderLike
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
# Names of the attention's output projection, the feed-forward block's inner layer, the module that ends with its
# activation, and the outer layer, for the same encoders line by line.
_SHAPES = (
    ("attention.output.dense", "intermediate.dense", "intermediate", "output.dense"),
    ("attention.out_lin", "ffn.lin1", "ffn.activation", "ffn.lin2"),
    ("attention.attn.o", "intermediate.dense", "intermediate", "output.dense"),
)
_LAYER = re.compile(r"(.*\.)?layer\.\d+")
NORMS = re.compile(r"(.*\.)?layer\.\d+\..*(LayerNorm|layer_norm)")


def init_linear(linear: nn.Linear) -> nn.Linear:
    """Draw a layer's weight as BERT does, N(0, 0.02), with bias 0; return the layer."""
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


class Adapter(nn.Module):
    """x + ReLU(W2 ReLU(W1 x + b1) + b2), of shape (B, L, H) -> (B, L, H).

    Houlsby et al., ICML 2019, https://arxiv.org/abs/1902.00751.
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
        names = (f"{prefix}.down", f"{prefix}.up")
        return chained_sites(names, (self.down, self.up), (self.down_act, self.up_act))


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
        model = self.encoder.requires_grad_(False).model
        check_layers(model, "bert_adapter")
        names = [name for name, _ in model.named_modules()]
        for name in names:
            if NORMS.fullmatch(name):
                model.get_submodule(name).requires_grad_(True)
        matches = ([name for name in names if pattern.fullmatch(name)] for pattern in _PLACES)
        self.places = next(places for places in matches if len(places) == 2 * model.config.num_hidden_layers)
        for place in self.places:
            model.set_submodule(place, nn.Sequential(model.get_submodule(place), nn.Identity()))
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


@register_backbone("bert", title="an encoder whose every weight trains")
class Bert(EncoderBackbone):
    """Full fine-tuning.

    Sites are the feed-forward block's inner layer and the output projections of both blocks, which add to the residual
    stream.

    :param encoder: as in `EncoderBackbone`; so `padding`.
    """

    def sites(self) -> list[Site]:
        """Return the layers that can be gated.

        :raises UsageError: the encoder has another shape.
        """
        check_layers(self.encoder.model, "bert")
        modules = dict(self.encoder.model.named_modules())
        layers = [name for name in modules if _LAYER.fullmatch(name)]
        shape = next(s for s in _SHAPES if all(f"{layer}.{name}" in modules for layer in layers for name in s))
        sites: list[Site] = []
        for i, layer in enumerate(layers):
            attention, inner, activation, outer = (modules[f"{layer}.{name}"] for name in shape)
            sites += chained_sites((f"l{i}.attention",), (attention,), (attention,))
            sites += chained_sites((f"l{i}.inner", f"l{i}.outer"), (inner, outer), (activation, outer))
        return sites
