"""The adapters of a model, for methods that replace or gate them."""

from __future__ import annotations

from nlpcl.models.adapters import BertAdapter
from nlpcl.models.base import ContinualModel


def adapter_backbone(model: ContinualModel, method: str) -> BertAdapter:
    """Return the model's backbone, which must be one with adapters.

    :raises TypeError: it is not.
    """
    backbone = model.backbone
    if not isinstance(backbone, BertAdapter):
        raise TypeError(f"{method} lives in a bert_adapter backbone, not in a {type(backbone).__name__}")
    return backbone
