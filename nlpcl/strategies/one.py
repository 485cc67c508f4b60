"""ONE: each task alone, from the same initial model.

Loss: CE(head_t(x), y). Not continual learning: no task learns from another and none is forgotten. A task's
result is the one measured right after it was trained, so only the diagonal of the matrix is filled.
"""

from __future__ import annotations

from typing import Any

import torch

from nlpcl.models.base import ContinualModel
from nlpcl.models.sizes import tensor_bytes
from nlpcl.registry import Regime, register_strategy
from nlpcl.strategies._shared.quadratic import trainable
from nlpcl.training.strategy import ContinualStrategy


@register_strategy("one", title="each task alone, from the initial model", ddp=True)
class ONE(ContinualStrategy):
    """Start every experience from the initial model."""

    protocol: Regime = "isolated"
    state = ("_initial",)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._initial = {name: p.detach().clone() for name, p in trainable(self.model).items()}

    def kept_bytes(self, tasks: int) -> dict[str, int]:
        """Return the bytes by kind, with the trained parameters once for every task: each has a model of its own."""
        kept = super().kept_bytes(tasks)
        heads = {id(p) for p in self.model.heads.parameters()} if isinstance(self.model, ContinualModel) else set()
        own = tensor_bytes(p for p in self.model.parameters() if p.requires_grad and id(p) not in heads)
        return {**kept, "parameters": kept["parameters"] + (tasks - 1) * own}

    @torch.no_grad()
    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Put the initial weights back, then take the experience's data."""
        for name, initial in self._initial.items():
            self.model.get_parameter(name).copy_(initial)
        super().train_dataset_adaptation(**kwargs)
