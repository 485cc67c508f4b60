"""CTR: capsules and transfer routing (Ke, Liu, Ma, Xu, Shu, NeurIPS 2021, https://arxiv.org/abs/2112.02706).

At every adapter position a plug-in passes knowledge from the tasks seen so far that resemble the current one,
and protects what is the task's own with HAT's masks.

    p_k = squash(F_k x),  u_{n|k} = W_{nk} p_k                       (task capsules, k <= t)
    q = ReLU(max_pos Conv(U_t)),  z_k = ReLU(max_pos Conv'(U_k) + W_q q)
    s_k = Linear(z_k),  d_k = [Gumbel-softmax(Linear(z_k))]_1        (similarity, decision)
    v_n = sum_{k<=t} d_k s_{k,n} u_{n|k},  u = x + Linear([v_1 v_2 v_3])
    out = x + a_2 ReLU(W_2 (a_1 ReLU(W_1 u)))                        (HAT's gates a, loss as HAT)

Maps F_k and W_{.k} train for k <= t and stay as they are for k > t. Routing is deterministic at test (argmax).
Where it differs from the original code: capsules are squashed over their own three components; every tensor
is (B, L, tasks, ...), so neither samples nor tasks mix; convolutions and their maxima see real tokens only; no
noise at test; no gate for a map that is not in the forward pass. Masks as in `hat.py`.

Shared and not maskable: LayerNorms, which freeze after the first task; the convolutions, W_q, the similarity
and decision maps and the 9 -> H map, which go on training as in the paper, so what CTR forgets through them is
a figure to measure, not a guarantee. `routing_learning_rate` says how fast they move: at the bottlenecks' rate of the
`minilm` preset they overturn what earlier tasks learnt (docs/presets.md).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from nlpcl.models.adapters import BertAdapter
from nlpcl.models.base import ContinualModel
from nlpcl.models.capsules import TransferAdapter
from nlpcl.registry import register_strategy
from nlpcl.strategies._masks import MaskPlugin
from nlpcl.strategies.base import ContinualStrategy, continual_model


class CTRPlugin(MaskPlugin):
    """HAT's masks on the plug-ins, and the rule that maps of tasks to come do not move."""

    def factors(self, task: int) -> dict[nn.Parameter, Tensor]:
        factors = super().factors(task)
        for adapter in cast(BertAdapter, self.backbone).adapters():
            assert isinstance(adapter, TransferAdapter)
            for p in (adapter.tasks.weight, adapter.tasks.bias, adapter.routing.route):
                known = torch.arange(p.shape[0], device=p.device) <= task
                factors[p] = known.to(p.dtype).reshape(-1, *[1] * (p.dim() - 1))
        return factors


def insert_capsules(model: ContinualModel, size: int, capsules: int) -> None:
    """Put CTR's plug-ins at the backbone's adapter positions."""
    backbone = model.backbone
    if not isinstance(backbone, BertAdapter):
        raise TypeError(f"CTR lives in a bert_adapter backbone, not in a {type(backbone).__name__}")
    backbone.set_adapters(
        lambda hidden: TransferAdapter(hidden, backbone.adapter_size, model.n_tasks, backbone.context, size, capsules)
    )


def routing_parameters(model: ContinualModel) -> list[nn.Parameter]:
    """What the plug-ins have beside the bottlenecks: task capsules and transfer routing."""
    adapters = cast(BertAdapter, model.backbone).adapters()
    return [p for a in adapters for p in [*a.tasks.parameters(), *a.routing.parameters()]]  # type: ignore[union-attr,operator]


@register_strategy(
    "ctr",
    title="capsules and transfer routing",
    paper="Ke, Liu, Ma, Xu, Shu: Achieving Forgetting Prevention and Knowledge Transfer in Continual Learning, "
    "NeurIPS 2021",
    url="https://arxiv.org/abs/2112.02706",
    scenarios=("til",),
    backbones=("bert_adapter",),
    reason="its routing starts from the task in hand, so it must know which that is",
    # What is shared and unprotected moves ten times slower than what the masks protect: docs/presets.md.
    presets=(({"model": "minilm"}, {"options": {"routing_learning_rate": 5e-4}}),),
)
class CTR(ContinualStrategy):
    """Capsules and transfer routing.

    :param lamb: weight lambda of the sparsity loss; 0.75 in the original toolkit.
    :param smax: largest scale s of the gates; 400 in the original toolkit.
    :param gate_learning_rate: learning rate of the gates' embeddings; chosen here, see docs/presets.md.
    :param gate_init: standard deviation of the embeddings' initial values; 1 in HAT's reference code.
    :param capsule_size: length of a capsule; 3 in the original toolkit.
    :param capsules: number of transfer capsules; 3 in the original toolkit.
    :param routing_learning_rate: learning rate of task capsules and transfer routing, which no mask protects; None:
        the optimizer's, as in the original toolkit.
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
        capsule_size: int = 3,
        capsules: int = 3,
        routing_learning_rate: float | None = None,
        parity: bool = False,
        plugins: list[Any] | None = None,
        **base_kwargs: Any,
    ) -> None:
        insert_capsules(continual_model(model, "CTR"), capsule_size, capsules)
        if routing_learning_rate is not None:
            optimizer.add_param_group({"params": routing_parameters(model), "lr": routing_learning_rate})
        self.masks = CTRPlugin(
            model,
            lamb=lamb,
            smax=smax,
            gate_learning_rate=gate_learning_rate,
            init_std=gate_init,
            parity=parity,
        )
        super().__init__(model=model, optimizer=optimizer, plugins=[*(plugins or []), self.masks], **base_kwargs)
