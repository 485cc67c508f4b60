"""How large a model is, and the bytes that it needs to keep after so many tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class PerTask(nn.Module, ABC):
    """A module that holds something for each task, of which only that of the tasks trained so far need be kept."""

    kind: str
    """What it holds, as named in a record."""

    @abstractmethod
    def bytes_for(self, tasks: int) -> int:
        """Bytes to keep once the first `tasks` tasks are trained."""


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements together."""
    return sum(t.numel() * t.element_size() for t in tensors)


def model_bytes(model: nn.Module, tasks: int) -> dict[str, int]:
    """Bytes of a model to keep once `tasks` tasks are trained: its parameters, and by kind what is there per task."""
    found: dict[str, int] = {"parameters": 0}
    per_task: set[int] = set()
    for module in model.modules():
        if isinstance(module, PerTask):
            found[module.kind] = found.get(module.kind, 0) + module.bytes_for(tasks)
            per_task |= {id(p) for p in module.parameters()}
    found["parameters"] = tensor_bytes(p for p in model.parameters() if id(p) not in per_task)
    return found


def sizes_of(strategy: Any) -> dict[str, Any]:
    """Numbers of parameters of a trained strategy's model, and what its masks and its choice of epochs came to."""
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
