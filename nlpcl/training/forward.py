"""How a strategy's model is called: on its device, in its precision, in training or evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from avalanche.models import avalanche_forward
from torch import Tensor, nn

from nlpcl.models.base import ContinualModel
from nlpcl.models.device import to_device
from nlpcl.training.plugin import Strategy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(strategy: Strategy) -> torch.autocast:
    """Return the context of a strategy's precision, which is float32 for Avalanche's own."""
    dtype = DTYPES[getattr(strategy, "precision", "fp32")]
    return torch.autocast(strategy.device.type, dtype=dtype, enabled=dtype is not torch.float32)


def logits_of(strategy: Strategy, x: Tensor, task_labels: Tensor | int) -> Tensor:
    """Return the logits of inputs under a strategy's model and precision, in float32; also for Avalanche's own."""
    with autocast(strategy):
        logits: Tensor = avalanche_forward(strategy.model, x, task_labels).float()
    return logits


def on_device(strategy: Strategy, x: Tensor) -> Tensor:
    """Copy inputs from the host to a strategy's device; of texts, padding that no text needs is cut off."""
    if isinstance(strategy.model, ContinualModel):
        x = strategy.model.backbone.trimmed(x)
    return to_device(x, strategy.device)


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Call `model.train(training)`, and at the end undo it module by module."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
