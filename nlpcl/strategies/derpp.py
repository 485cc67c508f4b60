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

from nlpcl.errors import UsageError
from nlpcl.models.heads import ABSENT
from nlpcl.ranges import Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.replay import MemoryPlugin, ReplayStrategy, replay_logits
from nlpcl.training.forward import mode


def own_mse(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean over samples of the mean square difference over the sample's own logits.

    :param logits: (B, C).
    :param stored: (B, C'), `ABSENT` where a sample's head has no such class; such columns are left out, and so are
        those that only one of the two has.
    """
    width = min(logits.shape[1], stored.shape[1])
    logits, stored = logits[:, :width], stored[:, :width]
    own = stored > ABSENT
    squares = torch.where(own, logits - stored, 0.0).square()
    return (squares.sum(dim=1) / own.sum(dim=1)).mean()


class DERPPPlugin(MemoryPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Adds the two replay terms to the loss of every mini-batch.

    :param alpha: weight of the term on stored logits.
    :param beta: weight of the term on labels.
    :param memory: as in `MemoryPlugin`.
    :raises UsageError: a weight below 0.
    """

    def __init__(self, *, alpha: float = 0.5, beta: float = 0.5, **memory: Any) -> None:
        super().__init__(**memory)
        if alpha < 0 or beta < 0:
            raise UsageError(f"alpha and beta must be at least 0, not {alpha} and {beta}.")
        self.alpha = alpha
        self.beta = beta

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if len(self.memory):
            strategy.loss = strategy.loss + self.replay_loss(strategy)

    def replay_loss(self, strategy: Any) -> Tensor:
        """alpha MSE(f(x'), z') + beta CE(f(x''), y''), both draws in one forward pass."""
        first = slots = self.memory.indices(self.replay_batch_size)
        if not self.memory.whole:
            slots = torch.cat([first, self.memory.indices(self.replay_batch_size)])
        replayed = self.memory.at(slots).on_device(strategy)
        assert replayed.logits is not None
        logits, n = replay_logits(strategy, replayed), len(first)
        distillation = own_mse(logits[:n], replayed.logits[:n])
        return self.alpha * distillation + self.beta * F.cross_entropy(logits[-n:], replayed.y[-n:])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        slots = self.fill(strategy)
        if not len(slots):
            return
        with mode(strategy.model, training=False), torch.no_grad():
            parts = slots.split(strategy.train_mb_size)
            logits = torch.cat([replay_logits(strategy, self.memory.at(part).on_device(strategy)) for part in parts])
        self.memory.add_logits(slots, logits)


@register_strategy(
    "derpp",
    title="dark experience replay (DER++)",
    paper="Buzzega, Boschini, Porrello, Abati, Calderara: Dark Experience for General Continual Learning: a Strong, "
    "Simple Baseline, NeurIPS 2020",
    url="https://arxiv.org/abs/2004.07211",
    replay=True,
    ddp=True,
)
class DERPP(ReplayStrategy):
    """Dark experience replay; further arguments as in `ReplayStrategy` and `ContinualStrategy`.

    :param alpha: weight of the squared distance to the stored logits, at least 0; 0.5 in the original toolkit.
    :param beta: weight of the cross-entropy of replayed examples, at least 0; 0.5 in the original toolkit.
    """

    def __init__(self, *, alpha: Weight = 0.5, beta: Weight = 0.5, **replay_kwargs: Any) -> None:
        self.alpha = alpha
        self.beta = beta
        super().__init__(**replay_kwargs)

    def replay_plugin(self, **memory: Any) -> DERPPPlugin:
        return DERPPPlugin(alpha=self.alpha, beta=self.beta, **memory)
