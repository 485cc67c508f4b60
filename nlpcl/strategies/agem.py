"""A-GEM: averaged gradient episodic memory (Chaudhry et al., ICLR 2019, https://arxiv.org/abs/1812.00420).

A step must not raise, to first order, the average loss on a memory of past tasks: the part of the gradient that
points against the memory's gradient is taken out.

    g = grad CE(mini-batch),  g_ref = grad CE(drawn from the memory)
    g <- g - (g . g_ref) / (g_ref . g_ref) g_ref   if g . g_ref < 0,  else g                (eq. 11)

Gradients are those of all trainable parameters together. With Adam the condition holds for the gradient, not for the
step. Whether there is a correction is decided on the device, so a head in the draw has a gradient also where there is
none, of 0, and with it the optimizer's weight decay and momentum.

Where it differs from the original code: replayed examples are scored by the head of their own task, not by the
current one, and with their attention mask; a mini-batch is drawn at every step; the memory gets a random part of each
task. `parity=True` restores a memory filled in file order that is replayed whole at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.replay import ProjectionPlugin, ReplayOptions
from nlpcl.training.strategy import ContinualStrategy


def project_agem(gradient: Tensor, reference: Tensor) -> Tensor:
    """Project g on the plane orthogonal to g_ref where g . g_ref < 0 (Chaudhry et al., eq. 11); both are (P,).

    This is decided on the device, so that nothing waits for it.
    """
    product = gradient @ reference
    return gradient - torch.where(product < 0, product / (reference @ reference), 0.0) * reference


class AGEMPlugin(ProjectionPlugin[ReplayOptions]):
    """Projects the gradient of every mini-batch, under any Avalanche strategy."""

    def draws(self, size: int) -> list[Tensor]:
        return [self.memory.indices(size)]

    def project(self, current: Tensor, references: Tensor) -> Tensor:
        return project_agem(current, references[0])


@register_strategy(
    "agem",
    title="averaged gradient episodic memory (A-GEM)",
    paper="Chaudhry, Ranzato, Rohrbach, Elhoseiny: Efficient Lifelong Learning with A-GEM, ICLR 2019",
    url="https://arxiv.org/abs/1812.00420",
    replay=True,
    ddp=True,
)
class AGEM(ContinualStrategy):
    """Averaged gradient episodic memory."""

    plugin_type = AGEMPlugin
