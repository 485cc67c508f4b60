"""HAT: hard attention to the task (Serrà et al., ICML 2018, https://arxiv.org/abs/1801.01423).

Each task learns, for every unit of every gated layer, whether it uses it; the weights that earlier tasks
use are then kept from moving.

    a_l^t = sigma(s e_l^t),  h_l <- h_l * a_l^t
    L = CE + lambda * sum_l sum_i a_{l,i}^t (1 - A_{l,i}) / sum_l sum_i (1 - A_{l,i}),  A = max_{k<t} a^k
    dW_{l,ij} <- dW_{l,ij} (1 - min(A_{l,i}, A_{l-1,j})),  db_{l,i} <- db_{l,i} (1 - A_{l,i})

Where it differs from the original code: s reaches smax at the end of an epoch; the gates have their own learning rate,
no weight decay and no clipping; the stored mask is 1[e > 0], so what is blocked is blocked exactly, weight decay
included. The gradient of e has its compensation, smax sigma'(e) / (s sigma'(s e)), in full, where the reference code
clamps s e to [-50, 50] within it, so that a gate with |s e| > 50 hardly moves in that step; the effect is small.
`parity=True` restores soft masks, gates that train like weights and in an encoder start at N(0, 0.02), and LayerNorms
that train in every task; it does not restore the clamp.

Shared and not maskable: LayerNorms and, in full fine-tuning, embeddings and the attention's query, key and value
maps, which therefore freeze after the first task; the head, in domain-incremental learning. There, `inference`
chooses the mask at test: that of the last trained task for every sample (`last`), or for each sample the one whose
output has the least entropy (`entropy`).
"""

from __future__ import annotations

from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.masks import MASK_PRESETS, MaskInference, MaskPlugin

HATPlugin = MaskPlugin


@register_strategy(
    "hat",
    title="hard attention to the task",
    paper="Serrà, Surís, Miron, Karatzoglou: Overcoming Catastrophic Forgetting with Hard Attention to the Task, "
    "ICML 2018",
    url="https://arxiv.org/abs/1801.01423",
    presets=MASK_PRESETS,
    ddp=True,
)
class HAT(MaskInference):
    """Hard attention to the task."""
