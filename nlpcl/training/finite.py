"""Losses, outputs and parameters that are no longer finite numbers."""

from __future__ import annotations

import torch
from torch import nn

from nlpcl.errors import UsageError
from nlpcl.training.plugin import Strategy


def not_finite(strategy: Strategy, what: str, where: str) -> UsageError:
    """Return the error of a training that diverged.

    :param what: `loss` or `outputs`.
    :param where: in which part of the task.
    """
    task = getattr(strategy.experience, "task_name", None) or strategy.experience.current_experience
    remedy = "" if getattr(strategy, "precision", "fp32") == "fp32" else ", or --precision fp32"
    verb = "is" if what == "loss" else "are"
    return UsageError(
        f"the {what} of {type(strategy).__name__} {verb} no longer finite, {where} of task {task}: "
        f"try a lower --learning-rate{remedy}."
    )


def all_finite(model: nn.Module) -> bool:
    """Return whether all parameters are finite; this waits for the device once."""
    return bool(torch.stack([p.isfinite().all() for p in model.parameters()]).all())
