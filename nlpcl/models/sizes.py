"""Sizes of a model: its numbers of parameters, and the bytes to keep after each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class PerTask(nn.Module, ABC):
    """A module that holds something for each task; only the parts of tasks that are trained need to be kept."""

    kind: str
    """Name in a record of what it holds."""

    @abstractmethod
    def bytes_for(self, tasks: int) -> int:
        """Return the bytes to keep once the first `tasks` tasks are trained."""


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of all elements of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def model_bytes(model: nn.Module, tasks: int) -> dict[str, int]:
    """Return by kind the bytes of a model to keep once `tasks` tasks are trained; `parameters` serve all tasks."""
    kept: dict[str, int] = {"parameters": 0}
    per_task: set[int] = set()
    for module in model.modules():
        if isinstance(module, PerTask):
            kept[module.kind] = kept.get(module.kind, 0) + module.bytes_for(tasks)
            per_task |= {id(p) for p in module.parameters()}
    kept["parameters"] = tensor_bytes(p for p in model.parameters() if id(p) not in per_task)
    return kept


def sizes_of(strategy: Any) -> dict[str, Any]:
    """Return the numbers of parameters of a trained strategy's model, its best epochs and the shares of its masks."""
    parameters = list(strategy.model.parameters())
    sizes: dict[str, Any] = {
        "parameters": sum(p.numel() for p in parameters),
        "parameters_frozen_at_end": sum(p.numel() for p in parameters if not p.requires_grad),
    }
    selection = getattr(strategy, "early_stopping", None)
    if selection is not None and selection.active:
        sizes["best_epochs"] = list(selection.best_epochs)
    masks = getattr(strategy, "masks", None)
    if masks is not None:
        sizes["undecided_gates"] = [round(share, 6) for share in masks.undecided]
        sizes["units_used"] = round(float(masks.gates.used.mean()), 6)
    return sizes
