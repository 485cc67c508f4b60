"""L2: the weights are pulled towards those that every earlier task ended with, all entries alike.

The identity-importance case of the quadratic penalty of EWC (Kirkpatrick et al., PNAS 2017,
https://arxiv.org/abs/1612.00796), as a baseline in Hsu et al., 2018, https://arxiv.org/abs/1810.12488.

    L = CE + lambda * sum_{k<t} sum_j (theta_j - theta_{k,j}*)^2

over the parameters that task k trained: all of the backbone's and its head's, so the pull grows with t. The original
toolkit keeps the weights of every task; here their mean is kept, which gives the same gradient, and nothing kept or
computed grows with t. There the heads of other tasks are in every term, too: a head is then pulled to the random values
that it had when earlier tasks ended, before it is trained and after. `parity=True` restores that.
"""

from __future__ import annotations

from typing import Any

from nlpcl.options import option
from nlpcl.ranges import Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.quadratic import QuadraticOptions, QuadraticPlugin
from nlpcl.training.plugin import Strategy
from nlpcl.training.strategy import ContinualStrategy


class L2Options(QuadraticOptions):
    """The options of L2. With `parity` the heads of all tasks are pulled, too."""

    lamb: Weight = option(0.5, "weight lambda of the penalty; 0.5 in the original toolkit")


class L2Plugin(QuadraticPlugin[L2Options]):
    """Adds lambda * sum_{k<t} sum_j (theta_j - theta_{k,j}*)^2 to the loss of any Avalanche strategy."""

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        parameters = self.held(strategy)
        self.quadratic.add(dict.fromkeys(parameters, 1.0), parameters)


@register_strategy(
    "l2",
    title="L2 pull towards the weights of earlier tasks",
    paper="Hsu, Liu, Ramasamy, Kira: Re-evaluating Continual Learning Scenarios: A Categorization and Case for Strong "
    "Baselines, NeurIPS Continual Learning Workshop 2018",
    url="https://arxiv.org/abs/1810.12488",
    presets=(  # chosen on validation data, see docs/presets.md
        ({"backbone": "mlp"}, {"options": {"lamb": 0.01}}),
        ({"benchmark": "femnist"}, {"options": {"lamb": 0.01}}),
    ),
    ddp=True,
)
class L2(ContinualStrategy):
    """L2 penalty towards the weights of earlier tasks."""

    plugin_type = L2Plugin
