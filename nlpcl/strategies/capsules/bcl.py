"""B-CL: BERT-based continual learning (Ke, Xu, Liu, NAACL 2021, https://aclanthology.org/2021.naacl-main.378).

At every adapter position task capsules share knowledge through dynamic routing, and a bottleneck with HAT's masks keeps
what is the task's own.

    p_k = squash(F_k x),  u_{n|k} = W_{nk} p_k                       (task capsules, k <= t)
    b = 0; three times: c = softmax_n(b), v_n = sum_{k<=t} c_{kn} u_{n|k}, b_{kn} += sum over tokens of
    u_{n|k} . squash(v_n)                                            (dynamic routing, c the same for all tokens)
    u = x + a_0 Linear([squash(v_1) squash(v_2) squash(v_3)])
    out = x + a_2 ReLU(W_2 (a_1 ReLU(W_1 u)))                        (HAT's gates a, loss as HAT)

Maps F_k and W_{.k} train for k <= t, so old capsules go on learning, and stay as they are for k > t.
Where it differs from the original code: capsules are squashed over their own three components; the capsules of a token
are made of that token alone, so neither positions nor samples mix; agreement is summed over a text's real tokens;
routing is that of the capsule paper, a softmax over the capsules n and squashed v. `parity=True` restores a softmax
over the tasks k and v as it is, and what it does for HAT.

Shared and not maskable: LayerNorms, which freeze after the first task; task capsules, which go on training as in the
paper, so what B-CL forgets through them is a figure to measure, not a guarantee. `routing_learning_rate` says how fast
they move. The 9 -> H map has a gate of its own, so its rows that earlier tasks use are blocked.
"""

from __future__ import annotations

from nlpcl.registry import register_strategy
from nlpcl.strategies.capsules.capsules import ORIGINAL_CAPSULES, CapsuleStrategy, DynamicRouting


@register_strategy(
    "bcl",
    title="capsules with dynamic routing (BERT-based continual learning)",
    paper="Ke, Xu, Liu: Adapting BERT for Continual Learning of a Sequence of Aspect Sentiment Classification Tasks, "
    "NAACL 2021",
    url="https://aclanthology.org/2021.naacl-main.378",
    scenarios=("til",),
    backbones=("bert_adapter",),
    reason="its routing is over the tasks up to the one in hand, so it must know which that is",
    presets=(({"model": "minilm"}, {"options": {"routing_learning_rate": 5e-4}}), *ORIGINAL_CAPSULES),
    ddp=True,
)
class BCL(CapsuleStrategy):
    """Capsules with dynamic routing."""

    def make_routing(self, hidden: int) -> DynamicRouting:
        return DynamicRouting(hidden, self.options.capsule_size, self.options.capsules, over_tasks=self.options.parity)
