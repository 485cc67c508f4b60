"""HAT: hard attention to the task (Serrà et al., ICML 2018, https://arxiv.org/abs/1801.01423).

Each task learns, for every unit of every gated layer, whether it uses it; the weights that earlier tasks
use are then kept from moving.

    a_l^t = sigma(s e_l^t),  h_l <- h_l * a_l^t
    L = CE + lambda * sum_l sum_i a_{l,i}^t (1 - A_{l,i}) / sum_l sum_i (1 - A_{l,i}),  A = max_{k<t} a^k
    dW_{l,ij} <- dW_{l,ij} (1 - min(A_{l,i}, A_{l-1,j})),  db_{l,i} <- db_{l,i} (1 - A_{l,i})

Where it differs from the original code: s reaches smax at the end of an epoch; the gates have their own
learning rate and no weight decay; the stored mask is 1[e > 0], so what is blocked is blocked exactly, weight
decay included. `parity=True` restores soft masks, and LayerNorms that train in every task.

Shared and not maskable: LayerNorms, which therefore freeze after the first task; the head, in
domain-incremental learning. There, `inference` chooses the mask at test: that of the last trained task for
every sample (`last`), or for each sample the one whose output has the least entropy (`entropy`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nlpcl.registry import register_strategy
from nlpcl.strategies._masks import MaskPlugin
from nlpcl.strategies.base import ContinualStrategy, continual_model

HATPlugin = MaskPlugin


def least_entropy(logits: Tensor) -> Tensor:
    """For logits (K, B, C) of K tasks, those of the task whose softmax has the least entropy, (B, C)."""
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    best = entropy.argmin(dim=0)
    return logits[best, torch.arange(logits.shape[1], device=logits.device)]


@register_strategy(
    "hat",
    title="hard attention to the task",
    paper="Serrà, Surís, Miron, Karatzoglou: Overcoming Catastrophic Forgetting with Hard Attention to the Task, "
    "ICML 2018",
    url="https://arxiv.org/abs/1801.01423",
    backbones=("bert_adapter", "cnn"),
    # At the adapters' 0.05 the sparsity loss closes what the next task needs before it has learnt: docs/presets.md.
    presets=(({"backbone": "cnn"}, {"options": {"gate_learning_rate": 0.01}}),),
)
class HAT(ContinualStrategy):
    """Hard attention to the task.

    :param lamb: weight lambda of the sparsity loss; 0.75 in HAT's paper and the original toolkit.
    :param smax: largest scale s of the gates; 400 in HAT's paper and the original toolkit.
    :param gate_learning_rate: learning rate of the gates' embeddings; chosen here, see docs/presets.md.
    :param gate_init: standard deviation of the embeddings' initial values; 1 in HAT's reference code.
    :param inference: which mask serves at test in domain-incremental learning: last or entropy.
    :param parity: restore the original toolkit's soft masks and trainable LayerNorms.
    """

    def __init__(
        self,
        *,
        model: Any,
        optimizer: Any,
        lamb: float = 0.75,
        smax: float = 400.0,
        gate_learning_rate: float | None = 0.05,
        gate_init: float = 1.0,
        inference: Literal["last", "entropy"] = "last",
        parity: bool = False,
        plugins: list[Any] | None = None,
        **base_kwargs: Any,
    ) -> None:
        self.masks = MaskPlugin(
            continual_model(model, "HAT"),
            lamb=lamb,
            smax=smax,
            gate_learning_rate=gate_learning_rate,
            init_std=gate_init,
            parity=parity,
        )
        self.inference = inference
        super().__init__(model=model, optimizer=optimizer, plugins=[*(plugins or []), self.masks], **base_kwargs)

    def forward(self) -> Tensor:
        gates = self.masks.gates
        if self.is_training or self.masks.task_incremental or self.inference == "last":
            return super().forward()
        last = gates.override
        logits = []
        for task in gates.trained.nonzero().flatten().tolist() or [0]:
            gates.override = task
            logits.append(super().forward())
        gates.override = last
        return least_entropy(torch.stack(logits))
