"""MTL, multi-task learning: all tasks at once (Caruana, Machine Learning 28, 1997).

Loss: sum over the batch's tasks k of (n_k / B) CE(head_k(x), y), which is the mean over the batch of each
sample's loss under its own head. The upper bound; only the last row of the matrix is filled. The original
code takes the number of epochs of the order's last task; here it is the largest of all tasks.
"""

from __future__ import annotations

from typing import Any

from avalanche.training import JointTraining

from nlpcl.registry import Regime, register_strategy
from nlpcl.training.strategy import ContinualStrategy


@register_strategy("mtl", title="all tasks at once (multi-task learning)", ddp=True)
class MTL(ContinualStrategy, JointTraining):
    """Train once on all tasks: `train(benchmark.train_stream)`."""

    protocol: Regime = "joint"
    state = ("_is_fitted",)

    def _after_training(self, **kwargs: Any) -> None:
        super()._after_training(**kwargs)
        self._experiences: list[Any] = []
