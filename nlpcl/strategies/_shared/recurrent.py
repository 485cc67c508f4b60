"""What the methods that replace a recurrent net share."""

from __future__ import annotations

from torch import nn

from nlpcl.errors import UsageError
from nlpcl.models.base import continual_model
from nlpcl.models.tokens import TextGRU, TokenBackbone


def recurrent_backbone(model: nn.Module, method: str) -> tuple[TokenBackbone, TextGRU]:
    """Return the model's backbone and its GRU, which `method` is about to replace.

    :raises TypeError: the model is not a `ContinualModel` on token vectors.
    :raises UsageError: its net is not a GRU.
    """
    backbone = continual_model(model, method).backbone
    if not isinstance(backbone, TokenBackbone):
        raise TypeError(f"{method} needs a backbone with token vectors, not a {type(backbone).__name__}")
    if not isinstance(backbone.net, TextGRU):
        raise UsageError(
            f"{method} lives in a recurrent net, and this one is a {type(backbone.net).__name__}: --set net=gru."
        )
    return backbone, backbone.net
