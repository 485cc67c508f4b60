"""A method in one file, run by its name: L2-SP pulls all weights towards those they began with.

    python examples/own_method.py [ENCODER]

Li, Grandvalet, Davoine: Explicit Inductive Bias for Transfer Learning, ICML 2018,
https://arxiv.org/abs/1802.01483.  L = CE + strength sum_j (theta_j - theta_j at the start)^2
"""

import sys
import tempfile
from typing import Any

import torch

from nlpcl import RunSpec, run
from nlpcl.options import option
from nlpcl.ranges import Weight
from nlpcl.registry import register_strategy
from nlpcl.training.strategy import ContinualStrategy, StrategyOptions


class L2SPOptions(StrategyOptions):
    strength: Weight = option(0.01, "factor on the penalty")


@register_strategy("l2sp", title="pull towards the first weights", url="https://arxiv.org/abs/1802.01483")
class L2SP(ContinualStrategy):
    """Keep all weights near those they began with."""

    options_type = L2SPOptions
    options: L2SPOptions
    state = ("start",)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.start = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    def criterion(self) -> torch.Tensor:
        loss = super().criterion()
        if self.is_training:
            for name, start in self.start.items():
                loss = loss + self.options.strength * (self.model.get_parameter(name) - start).square().sum()
        return loss


if __name__ == "__main__":
    encoder = sys.argv[1] if len(sys.argv) > 1 else "minilm"
    # As a file of nlpcl/strategies, or named under an entry point, `nlpcl run --strategy l2sp` finds it too.
    for strength in (0.0, 0.01):
        spec = RunSpec(
            strategy="l2sp", options={"strength": strength}, tasks=2, train_size=160, epochs=7, model=encoder
        )
        with tempfile.TemporaryDirectory() as out:
            found = run(spec, out=out).derived()
        print(f"strength {strength}: accuracy {found['average_accuracy']:.1%}, forgetting {found['forgetting']:.1%}")
