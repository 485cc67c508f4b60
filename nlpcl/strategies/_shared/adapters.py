"""The adapters of a model, for methods that replace or gate them."""

from __future__ import annotations

from torch import nn

from nlpcl.models.adapters import BertAdapter
from nlpcl.training.strategy import continual_model


def adapter_backbone(model: nn.Module, method: str) -> BertAdapter:
    """The model's backbone, if it is one with adapters.

    :raises TypeError: it is not.
    """
    backbone = continual_model(model, method).backbone
    if not isinstance(backbone, BertAdapter):
        raise TypeError(f"{method} lives in a bert_adapter backbone, not in a {type(backbone).__name__}")
    return backbone
