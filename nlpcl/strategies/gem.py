"""GEM: gradient episodic memory (Lopez-Paz and Ranzato, NeurIPS 2017, https://arxiv.org/abs/1706.08840).

A step must not raise, to first order, the loss on the memory of any past task: the gradient is replaced by the nearest
one whose product with each past task's gradient is not negative.

    g = grad CE(mini-batch),  G's rows g_k = grad CE(drawn from task k), k < t
    v = argmin_v 1/2 v'(GG' + eps' I)v + (Gg)'v,  v >= margin,  eps' = eps trace(GG') / t
    g <- G'v + g   if some g . g_k < 0,  else g

A constraint holds up to the regularisation: g_k . (G'v + g) >= -eps' v_k. With Adam the constraints are on the
gradient, not on the step, which need not satisfy them. A head in the draw of a step that is corrected has a gradient.

Where it differs from the original code: replayed examples are scored by the head of their own task and with their
attention mask; every past task in the memory is in every draw, so no gradient is left from an earlier step; eps is
relative to the size of the gradients; a mini-batch is drawn at every step; the memory gets a random part of each task.
`parity=True` restores a memory filled in file order that is replayed whole at every step.
"""

from __future__ import annotations

import numpy as np
import quadprog
import torch
from torch import Tensor

from nlpcl.models.device import to_device
from nlpcl.options import option
from nlpcl.ranges import Positive, Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.replay import ProjectionPlugin, ReplayOptions
from nlpcl.training.strategy import ContinualStrategy


def project_gem(gram: np.ndarray, products: np.ndarray, margin: float, eps: float) -> np.ndarray:
    """Solve v = argmin_v 1/2 v'(GG' + eps' I)v + (Gg)'v with v >= margin; eps' = eps trace(GG') / t.

    It is the dual of the projection, Lopez-Paz and Ranzato 2017, section 3.

    :param gram: GG', (t, t), float64, not all 0.
    :param products: Gg, (t,), float64.
    :param margin: least v, at least 0.
    :param eps: regularisation relative to the mean square norm of the rows of G, above 0.
    :return: v, (t,).
    """
    # Divided by that mean both terms keep their minimum, and the solver its accuracy however small gradients are.
    size = gram.trace() / len(gram)
    identity = np.eye(len(gram))
    solution = quadprog.solve_qp(gram / size + eps * identity, -products / size, identity, np.full(len(gram), margin))
    weights: np.ndarray = solution[0]
    return weights


class GEMOptions(ReplayOptions):
    """The options of GEM."""

    margin: Weight = option(
        0.5, "least weight v of a past task's gradient in a corrected step; 0.5 in the original toolkit"
    )
    eps: Positive = option(
        1e-3,
        "regularisation of the quadratic programme relative to the mean square norm of the past tasks' gradients; "
        "1e-3, absolute, in the original toolkit",
    )


class GEMPlugin(ProjectionPlugin[GEMOptions]):
    """Corrects the gradient of every mini-batch, under any Avalanche strategy."""

    def draws(self, size: int) -> list[Tensor]:
        """Draw for each past task the slots of its even share of `size` examples, at least one, or all of `parity`."""
        mixed = self.memory.indices(len(self.memory))
        tasks = self.memory.tasks[mixed]
        present = tasks.unique().tolist()
        quota = len(mixed) if self.options.parity else max(1, size // max(1, len(present)))
        return [mixed[tasks == task][:quota] for task in present]

    def project(self, current: Tensor, references: Tensor) -> Tensor | None:
        # A step's one wait for the device: the programme is solved on the host, which needs these t (t + 1) numbers.
        numbers = torch.cat([references @ references.T, (references @ current)[:, None]], dim=1).double().cpu().numpy()
        gram, products = numbers[:, :-1], numbers[:, -1]
        # In fp16 the gradient may have overflowed; the scaler then skips the step.
        if not np.isfinite(numbers).all() or not (products < 0).any():
            return None
        v = torch.from_numpy(project_gem(gram, products, self.options.margin, self.options.eps))
        return current + to_device(v.to(references.dtype), references.device) @ references


@register_strategy(
    "gem",
    title="gradient episodic memory (GEM)",
    paper="Lopez-Paz, Ranzato: Gradient Episodic Memory for Continual Learning, NeurIPS 2017",
    url="https://arxiv.org/abs/1706.08840",
    replay=True,
    ddp=True,
)
class GEM(ContinualStrategy):
    """Gradient episodic memory."""

    plugin_type = GEMPlugin
