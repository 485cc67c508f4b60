"""Parts of a backbone that several methods replace or gate."""

from __future__ import annotations

from nlpcl.errors import UsageError
from nlpcl.models.adapters import BertAdapter
from nlpcl.models.base import ContinualModel
from nlpcl.models.frozen import TextGRU, TokenBackbone


def adapter_backbone(model: ContinualModel, method: str) -> BertAdapter:
    """Return the model's backbone, which must be one with adapters.

    :raises TypeError: it is not.
    """
    backbone = model.backbone
    if not isinstance(backbone, BertAdapter):
        raise TypeError(f"{method} lives in a bert_adapter backbone, not in a {type(backbone).__name__}")
    return backbone


def recurrent_backbone(model: ContinualModel, method: str) -> tuple[TokenBackbone, TextGRU]:
    """Return the model's backbone and its GRU, which `method` is about to replace.

    :raises TypeError: the backbone has no token vectors.
    :raises UsageError: its net is not a GRU.
    """
    backbone = model.backbone
    if not isinstance(backbone, TokenBackbone):
        raise TypeError(f"{method} needs a backbone with token vectors, not a {type(backbone).__name__}")
    if not isinstance(backbone.net, TextGRU):
        raise UsageError(
            f"{method} lives in a recurrent net, and this one is a {type(backbone.net).__name__}: --set net=gru."
        )
    return backbone, backbone.net
