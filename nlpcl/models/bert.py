"""Full fine-tuning of an encoder."""

from __future__ import annotations

import re
from typing import Any

from nlpcl.models.base import Site
from nlpcl.models.encoder import EncoderBackbone, Padding, check_layers
from nlpcl.models.pretrained import EncoderLike
from nlpcl.registry import register_backbone

# Names of the attention's output projection, the feed-forward block's inner layer, the module that ends with its
# activation, and the outer layer. The first line fits BERT, RoBERTa, ELECTRA and their like, the second DistilBERT, the
# third MPNet.
_SHAPES = (
    ("attention.output.dense", "intermediate.dense", "intermediate", "output.dense"),
    ("attention.out_lin", "ffn.lin1", "ffn.activation", "ffn.lin2"),
    ("attention.attn.o", "intermediate.dense", "intermediate", "output.dense"),
)
_LAYER = re.compile(r"(.*\.)?layer\.\d+")


@register_backbone("bert", title="an encoder whose every weight trains")
class Bert(EncoderBackbone):
    """Full fine-tuning.

    Sites are the feed-forward block's inner layer and the output projections of both blocks, which add to the residual
    stream.

    :param encoder: as in `EncoderBackbone`; so `padding`.
    """

    def __init__(self, encoder: EncoderLike = "minilm", *, padding: Padding = "dynamic", **options: Any) -> None:
        super().__init__(encoder, padding=padding, **options)
        if self.options.pooling != "pooler":
            self._freeze_pooler()

    def set_parity(self) -> None:
        """Do as in `Backbone`, and freeze the pooler, which the original toolkit left out of the optimizer."""
        super().set_parity()
        self._freeze_pooler()

    def _freeze_pooler(self) -> None:
        pooler = getattr(self.encoder.model, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(False)

    def sites(self) -> list[Site]:
        """Return the layers that can be gated.

        :raises UsageError: the encoder has another shape.
        """
        check_layers(self.encoder.model, "bert")
        modules = dict(self.encoder.model.named_modules())
        layers = [name for name in modules if _LAYER.fullmatch(name)]
        shape = next(s for s in _SHAPES if all(f"{layer}.{name}" in modules for layer in layers for name in s))
        sites = []
        for i, layer in enumerate(layers):
            attention, inner, activation, outer = (modules[f"{layer}.{name}"] for name in shape)
            width: int = inner.out_features
            sites += [
                Site(f"l{i}.attention", attention, attention, self.width, inputs=((None, self.width),)),
                Site(f"l{i}.inner", inner, activation, width, inputs=((None, self.width),)),
                Site(f"l{i}.outer", outer, outer, self.width, inputs=((f"l{i}.inner", 1),)),
            ]
        return sites
