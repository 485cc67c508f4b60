"""A memory plugin that sees the features of the current mini-batch without a second forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nlpcl.strategies._shared.replay import MemoryPlugin


class FeaturesPlugin(MemoryPlugin, supports_distributed=False):  # type: ignore[call-arg]
    """Catches what the strategy's own forward pass hands to the heads of a `ContinualModel`.

    :param memory: as in `MemoryPlugin`.
    """

    features: Tensor | None = None
    """Features (B, F) of the current mini-batch, from `after_forward` to the backward pass."""

    def __init__(self, **memory: Any) -> None:
        super().__init__(**memory)
        self._handle: RemovableHandle | None = None

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self._handle = strategy.model.heads.register_forward_pre_hook(self._catch)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        assert self._handle is not None
        self._handle.remove()
        self._handle = None

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.features = None  # or its graph would live on

    def _catch(self, heads: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.features = inputs[0]


def joint_mean(current: Tensor, replayed: Tensor, n: int, m: int) -> Tensor:
    """Mean over n current and m replayed examples, from the mean over each."""
    return (n * current + m * replayed) / (n + m)
