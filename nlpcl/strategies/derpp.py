"""DER++: dark experience replay (Buzzega et al., NeurIPS 2020, https://arxiv.org/abs/2004.07211).

Past tasks are replayed with their labels and with the logits that the model had for them when their task was learnt.

    L = CE(f(x), y) + alpha MSE(f(x'), z') + beta CE(f(x''), y'')

(x', z') and (x'', y'') are two independent draws from the memory, z' the logits stored at the end of the sample's
task by the model in evaluation mode. MSE is the mean over a sample's own logits, those of its task's head, and over
samples. A head in a draw has a gradient, and so the weight decay of a step.

As in the original toolkit, and unlike the paper, examples and logits enter the memory once a task, at its end. Where it
differs from the toolkit: replayed examples are scored by the head of their own task, not by the current one, and with
their attention mask; two mini-batches are drawn at every step; the memory gets a random part of each task.
`parity=True` restores a memory filled in file order that is replayed whole at every step, for both terms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nlpcl.models.heads import ABSENT
from nlpcl.options import option
from nlpcl.ranges import Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.replay import MemoryPlugin, ReplayOptions
from nlpcl.training.forward import logits_of, mode
from nlpcl.training.plugin import Strategy
from nlpcl.training.strategy import ContinualStrategy


def own_mse(logits: Tensor, stored: Tensor) -> Tensor:
    """Return the mean over samples of the mean square difference over the sample's own logits.

    :param logits: (B, C).
    :param stored: (B, C'), `ABSENT` where a sample's head has no such class; such columns are left out, and so are
        those that only one of the two has.
    """
    width = min(logits.shape[1], stored.shape[1])
    logits, stored = logits[:, :width], stored[:, :width]
    own = stored > ABSENT
    squares = torch.where(own, logits - stored, 0.0).square()
    return (squares.sum(dim=1) / own.sum(dim=1)).mean()


class DERPPOptions(ReplayOptions):
    """The options of DER++."""

    alpha: Weight = option(0.5, "weight of the squared distance to the stored logits; 0.5 in the original toolkit")
    beta: Weight = option(0.5, "weight of the cross-entropy of replayed examples; 0.5 in the original toolkit")


class DERPPPlugin(MemoryPlugin[DERPPOptions]):
    """Adds the two replay terms to the loss of every mini-batch, under any Avalanche strategy."""

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if len(self.memory):
            strategy.loss = strategy.loss + self.replay_loss(strategy)

    def replay_loss(self, strategy: Strategy) -> Tensor:
        """Return alpha MSE(f(x'), z') + beta CE(f(x''), y''), both draws in one forward pass."""
        size = self.options.replay_batch_size
        first = slots = self.memory.indices(size)
        if not self.options.parity:
            slots = torch.cat([first, self.memory.indices(size)])
        replayed = self.memory.at(slots).on_device(strategy)
        assert replayed.logits is not None
        logits, n = logits_of(strategy, replayed.x, replayed.task_labels), len(first)
        distance = own_mse(logits[:n], replayed.logits[:n])
        return self.options.alpha * distance + self.options.beta * F.cross_entropy(logits[-n:], replayed.y[-n:])

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        slots = self.fill(strategy)
        if not len(slots):
            return
        with mode(strategy.model, training=False), torch.no_grad():
            parts = [self.memory.at(part).on_device(strategy) for part in slots.split(strategy.train_mb_size)]
            logits = torch.cat([logits_of(strategy, part.x, part.task_labels) for part in parts])
        self.memory.keep("logits", slots, logits, fill=ABSENT)


@register_strategy(
    "derpp",
    title="dark experience replay (DER++)",
    paper="Buzzega, Boschini, Porrello, Abati, Calderara: Dark Experience for General Continual Learning: a Strong, "
    "Simple Baseline, NeurIPS 2020",
    url="https://arxiv.org/abs/2004.07211",
    replay=True,
    ddp=True,
)
class DERPP(ContinualStrategy):
    """Dark experience replay."""

    plugin_type = DERPPPlugin
