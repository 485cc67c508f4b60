"""EWC: elastic weight consolidation (Kirkpatrick et al., PNAS 2017, https://arxiv.org/abs/1612.00796).

What a task has learnt is held by springs, as stiff as the Fisher information says the weight matters to it.

    L = CE + lambda / 2 * sum_{k<t} sum_j F_{k,j} (theta_j - theta_{k,j}*)^2
    F_k = mean_x (d log p(y | x, theta_k*) / d theta)^2,  x from task k, y drawn from p(. | x, theta_k*)

over all trainable parameters, heads included; a head that no example of task k reaches has F_k = 0, so in
task-incremental learning a task's head is held by its own task alone and stays where that left it. The sum is kept as
one term, sum_j F_j (theta_j - mu_j)^2 with F = sum_k F_k, so nothing kept or computed grows with t.

Where it differs from the original code, which takes the squared gradient of the mean loss of a batch of 20, with
dropout on and the data set's labels, averages F over tasks and keeps the latest weights only: that is no Fisher
information (it shrinks with the batch size), and the anchor ignores how much each task needs a weight. `parity=True`
restores it:

    F_new = 1/N sum_b |b| (d CE_b / d theta)^2,  F <- (F_new + t F) / (t + 1),  theta* = the latest weights

The original differentiates the penalty there, too, but after it has moved theta* to theta, where its gradient is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from avalanche.models import avalanche_forward
from torch import Tensor
from torch.nn import functional as F

from nlpcl.models.base import single_task
from nlpcl.options import option
from nlpcl.ranges import Count, Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.quadratic import MergedQuadratic, QuadraticOptions, QuadraticPlugin, trainable
from nlpcl.training.batches import loader_of
from nlpcl.training.forward import mode, on_device
from nlpcl.training.plugin import Strategy
from nlpcl.training.strategy import ContinualStrategy

PARITY_BATCH = 20
"""Batch size of the original toolkit's Fisher estimate."""


class EWCOptions(QuadraticOptions):
    """The options of EWC. With `parity` the Fisher information is the original toolkit's, too, and its running mean."""

    lamb: Weight = option(
        5000.0,
        "weight lambda of the penalty; 5000 in the original toolkit, whose estimate of the Fisher information is "
        "another, and chosen here for that of samples, too: docs/presets.md",
    )
    fisher_samples: Count = option(
        200, "at most so many examples of a task, drawn at random, give its Fisher information; chosen here"
    )


class EWCPlugin(QuadraticPlugin[EWCOptions]):
    """Elastic weight consolidation for any Avalanche strategy.

    The Fisher information is computed in float32, once a task, after it. It loops over samples, each of which costs a
    forward and a backward pass. Random draws come from a generator of the plugin's own, seeded with the seed of
    torch's; only the dropout of `parity` does not.
    """

    state = ("generator",)
    share = 0.5

    def __init__(self, options: EWCOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.generator = torch.Generator().manual_seed(torch.initial_seed())

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        parameters = trainable(strategy.model)
        fisher: Mapping[str, Tensor | float] = self.fisher(strategy)
        if self.options.parity:
            tasks = strategy.clock.train_exp_counter  # those before this one: the clock ticks last
            old = self.quadratic.importance
            known = [name for name in parameters if name in fisher or name in old]
            fisher = {n: (fisher.get(n, 0.0) + tasks * old.get(n, 0.0)) / (tasks + 1) for n in known}
            self.quadratic = MergedQuadratic()
        self.quadratic.add(fisher, parameters)

    def fisher(self, strategy: Strategy) -> dict[str, Tensor]:
        """Return the diagonal of the Fisher information of the experience just trained.

        It is by parameter name; one that no loss reaches is missing. Dropout is off and labels are drawn from the
        model's own p. With `parity` it is the original toolkit's F_new.
        """
        data, parity, parameters = strategy.experience.dataset, self.options.parity, trainable(strategy.model)
        if parity:
            rows, size = torch.arange(len(data)), PARITY_BATCH
        else:
            rows, size = torch.randperm(len(data), generator=self.generator)[: self.options.fisher_samples], 1
        found: dict[str, Tensor] = {}
        # cuDNN has no backward pass for recurrent layers in evaluation mode.
        cudnn = nullcontext() if parity else torch.backends.cudnn.flags(enabled=False)
        with mode(strategy.model, training=parity), cudnn:
            for x, y, *_, tasks in loader_of(data, [batch.tolist() for batch in rows.split(size)]):
                logits = avalanche_forward(strategy.model, on_device(strategy, x), single_task(tasks))
                if not parity:  # drawn on the CPU, so that the seed means the same on every device
                    y = torch.multinomial(logits.detach().softmax(dim=1).cpu(), 1, generator=self.generator)[:, 0]
                loss = F.cross_entropy(logits, y.to(logits.device))
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, grad in zip(parameters, grads, strict=True):
                    if grad is not None:
                        found.setdefault(name, torch.zeros_like(grad)).addcmul_(grad, grad, value=len(y) / len(rows))
        return found


@register_strategy(
    "ewc",
    title="elastic weight consolidation",
    paper="Kirkpatrick, Pascanu, Rabinowitz et al.: Overcoming catastrophic forgetting in neural networks, PNAS 2017",
    url="https://arxiv.org/abs/1612.00796",
    ddp=True,
)
class EWC(ContinualStrategy):
    """Elastic weight consolidation."""

    plugin_type = EWCPlugin
