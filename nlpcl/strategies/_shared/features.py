"""A memory plugin that sees the features of the current mini-batch without a second forward pass."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nlpcl.models.base import ContinualModel
from nlpcl.strategies._shared.replay import MemoryPlugin
from nlpcl.training.protocols import Strategy


class FeaturesPlugin(MemoryPlugin):
    """Catches what the strategy's own forward pass hands to the heads of a `ContinualModel`."""

    features: Tensor | None = None
    """Features (B, F) of the current mini-batch, from `after_forward` to the backward pass."""
    _handle: RemovableHandle | None = None

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._handle = cast(ContinualModel, strategy.model).heads.register_forward_pre_hook(self._catch)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        assert self._handle is not None
        self._handle.remove()
        self._handle = None

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        self.features = None  # or its graph would live on

    def _catch(self, heads: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.features = inputs[0]


def joint_mean(current: Tensor, replayed: Tensor, n: int, m: int) -> Tensor:
    """Return the mean over n current and m replayed examples, from the mean over each."""
    return (n * current + m * replayed) / (n + m)
