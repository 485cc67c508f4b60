"""ONE: each task alone, from the same initial model.

Loss: CE(head_t(x), y). Not continual learning: no task learns from another and none is forgotten. A task's
result is the one measured right after it was trained, so only the diagonal of the matrix is filled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nlpcl.models.base import ContinualModel
from nlpcl.models.sizes import tensor_bytes
from nlpcl.registry import Regime, register_strategy
from nlpcl.training.strategy import ContinualStrategy


@register_strategy("one", title="each task alone, from the initial model", ddp=True)
class ONE(ContinualStrategy):
    """Starts every experience from the initial model; takes the arguments of `ContinualStrategy`."""

    protocol: Regime = "isolated"
    state = ("_initial",)

    def __init__(self, **base_kwargs: Any) -> None:
        super().__init__(**base_kwargs)
        trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
        self._initial: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in self.model.named_parameters() if name in trainable
        }

    def kept_bytes(self, tasks: int) -> dict[str, int]:
        """As in `ContinualStrategy`, with the trained parameters once for every task: each has a model of its own."""
        found = super().kept_bytes(tasks)
        heads = {id(p) for p in self.model.heads.parameters()} if isinstance(self.model, ContinualModel) else set()
        own = tensor_bytes(p for p in self.model.parameters() if p.requires_grad and id(p) not in heads)
        return {**found, "parameters": found["parameters"] + (tasks - 1) * own}

    @torch.no_grad()
    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Put the initial weights back, then take the experience's data."""
        for name, p in self.model.named_parameters():
            if name in self._initial:
                p.copy_(self._initial[name])
        super().train_dataset_adaptation(**kwargs)
