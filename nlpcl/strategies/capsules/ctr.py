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

from nlpcl.registry import register_strategy
from nlpcl.strategies.capsules.capsules import ORIGINAL_CAPSULES, CapsuleStrategy, TransferRouting


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
    presets=(({"model": "minilm"}, {"options": {"routing_learning_rate": 5e-4}}), *ORIGINAL_CAPSULES),
    ddp=True,
)
class CTR(CapsuleStrategy):
    """Capsules and transfer routing."""

    def make_routing(self, hidden: int) -> TransferRouting:
        return TransferRouting(hidden, self.options.capsule_size, self.options.capsules)
