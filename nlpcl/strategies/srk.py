"""SRK: shared knowledge from a sequence of domains (Lv, Wang, Liu, Chen, Zhang, DASFAA 2019,
https://doi.org/10.1007/978-3-030-18576-3_47).

Two recurrent nets read a text: one learns the task's features (F), the other retains what tasks share (K) and may move
less from task to task. A gate mixes their last states.

    r = sigma(x_r + h_r),  i = sigma(x_i + h_i),  n = squeeze(x_n + r h_n),  h' = n + i (h - n)      (both nets)
    squeeze(n) = c + 0.001 (n - c),  c = n within [0, 0.9];   x_. = W_x. x + b_x.,  h_. = W_h. h + b_h.
    g = sigma(W_F h_F + W_K h_K),  h = (1 - g) h_F + g h_K
    L = CE(head(h)) + CE(head(h_F)) + CE(head(h_K))

Three vectors say how much the present task uses net K's inputs, its units and its candidates: the sums of x, of h and
of r h_n over the mini-batch's real tokens, their absolute values added up over the task's steps, and the result c
brought to [0, 1] by its minimum and maximum. From the second task on, the share

    s_t = 0.9 exp(-0.1 t) + 0.1

of the entries with the smallest c are free: a step moves them by (1 - c) of what it would; the others stay. The inputs'
factors act on the columns of W_x, the units' on the columns of W_h and on the biases of r and i, the candidates' on
those of n. Net F, the gate and the heads train freely.

Where it differs from the original code: factors are those of the unit they act on, which there they are not, being
taken in sorted order; the sums start anew with each task and hold real tokens alone; the biases of r had the inputs'
factors, though inputs are no units; the factors act on the step and not on the gradient, which an optimizer such as
Adam scales back; states are those at the last real token; squeeze has no jump at 0.9. With `parity=True` the nets read
padding, too, and what `ContinualStrategy` lists is restored; it has nothing else of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from nlpcl.models.base import ContinualModel, Site
from nlpcl.models.text_gru import last_state
from nlpcl.registry import register_strategy
from nlpcl.strategies._recurrent import recurrent_backbone
from nlpcl.strategies.base import ContinualStrategy

CEILING = 0.9
SLOPE = 0.001


def squeeze(n: Tensor) -> Tensor:
    """n within [0, 0.9], and beyond it 0.001 of what exceeds it."""
    inside = n.clamp(0, CEILING)
    return inside + SLOPE * (n - inside)


def free_share(task: int) -> float:
    """s_t = 0.9 exp(-0.1 t) + 0.1, the share of entries that may move."""
    return 0.9 * math.exp(-0.1 * task) + 0.1


def update_factors(sums: Tensor, share: float) -> Tensor:
    """Factors (N,) on the steps of N entries: 1 - c for the floor(share N) of smallest control c, 0 for the others.

    :param sums: (N,), at least 0; c is them minus their minimum, over their range.
    :param share: in [0, 1].
    """
    low, high = sums.aminmax()
    control = (sums - low) / (high - low).clamp(min=torch.finfo(sums.dtype).tiny)
    smallest, where = control.topk(int(share * len(control)), largest=False)
    return torch.zeros_like(control).scatter(0, where, 1 - smallest)


class SqueezedGRU(nn.Module):
    """A GRU whose candidate is squeezed instead of passed through tanh.

    :param channels: width of a token vector.
    :param hidden: number of units H.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.x2h = nn.Linear(channels, 3 * hidden)
        self.h2h = nn.Linear(hidden, 3 * hidden)
        bound = hidden**-0.5
        for p in self.parameters():
            nn.init.uniform_(p, -bound, bound)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The states h' after, and r h_n at, every token of x (B, L, channels); (B, L, H) each, float32."""
        hidden = self.h2h.in_features
        steps = self.x2h(x).float()
        h = steps.new_zeros(len(x), hidden)
        states, candidates = [], []
        with torch.autocast(x.device.type, enabled=False):
            # torch has no such cell, and a state depends on the one before: a loop over the tokens it must be.
            for step in steps.unbind(dim=1):
                of_x, x_n = step.split([2 * hidden, hidden], dim=-1)
                of_h, h_n = self.h2h(h).split([2 * hidden, hidden], dim=-1)
                r, i = (of_x + of_h).sigmoid().chunk(2, dim=-1)
                candidate = r * h_n
                h = torch.lerp(squeeze(x_n + candidate), h, i)
                states.append(h)
                candidates.append(candidate.detach())
        return torch.stack(states, dim=1), torch.stack(candidates, dim=1)


class Controls(NamedTuple):
    """Something for each input of a net (C,), for each unit (H,) and for each candidate (H,)."""

    inputs: Tensor
    units: Tensor
    candidates: Tensor


@torch.no_grad()
def control_sums(x: Tensor, states: Tensor, candidates: Tensor, mask: Tensor) -> Controls:
    """|sum| over mini-batch and real tokens of inputs x, of the states h before each token, and of r h_n.

    :param x: (B, L, C); states and candidates: (B, L, H), as `SqueezedGRU` gives them; mask: (B, L).
    """
    real = mask.to(states.dtype)

    def total(values: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("bln,bl->n", values.to(weight.dtype), weight).abs()

    # Before the first token the state is 0, before any other it is that after the one before.
    return Controls(total(x, real), total(states[:, :-1], real[:, 1:]), total(candidates, real))


class SRKNet(nn.Module):
    """Nets F and K and the gate that mixes their last states.

    :param channels: width of a token vector.
    :param hidden: number of units of either net.
    :param dropout: probability of dropping a unit of any of the three features.
    """

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.width = hidden
        self.learner = SqueezedGRU(channels, hidden)
        self.keeper = SqueezedGRU(channels, hidden)
        self.from_learner = nn.Linear(hidden, hidden, bias=False)
        self.from_keeper = nn.Linear(hidden, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        self._parts: tuple[list[Tensor], Controls] | None = None

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Features h (B, width) of vectors (B, L, C); mask (B, L) is True on the leading real tokens."""
        learnt = last_state(self.learner(vectors)[0], mask)
        states, candidates = self.keeper(vectors)
        kept = last_state(states, mask)
        g = (self.from_learner(learnt) + self.from_keeper(kept)).sigmoid()
        if self.training:
            parts = [self.dropout(learnt), self.dropout(kept)]
            self._parts = parts, control_sums(vectors, states, candidates, mask)
        return self.dropout(learnt + g * (kept - learnt))

    def take_parts(self) -> tuple[list[Tensor], Controls]:
        """[h_F, h_K], (B, width) each, and net K's sums of the last training mini-batch, which are then gone."""
        parts, self._parts = self._parts, None
        assert parts is not None
        return parts

    def sites(self) -> list[Site]:
        """None: a recurrent net's weights serve three layers at once."""
        return []


def keeper_factors(keeper: SqueezedGRU, sums: Sequence[Tensor], share: float) -> dict[nn.Parameter, Tensor]:
    """Factors on the steps of net K's parameters, broadcastable to them.

    :param sums: of inputs, units and candidates, added up over the task.
    :param share: s_t.
    """
    inputs, units, candidates = (update_factors(total, share) for total in sums)
    biases = torch.cat([units, units, candidates])
    factors = {
        "x2h.weight": inputs.unsqueeze(0),
        "h2h.weight": units.unsqueeze(0),
        "x2h.bias": biases,
        "h2h.bias": biases,
    }
    return {keeper.get_parameter(name): factor for name, factor in factors.items()}


class SRKPlugin(SupervisedPlugin[Any], supports_distributed=False):  # type: ignore[call-arg]
    """Puts an `SRKNet` on the backbone's token vectors, adds its nets' losses and holds net K's steps back.

    :param model: its backbone's net is a `TextGRU`, which is replaced by nets of the same width.
    """

    def __init__(self, model: ContinualModel) -> None:
        super().__init__()
        self.backbone, gru = recurrent_backbone(model, "srk")
        self.net = SRKNet(gru.channels, gru.width, gru.dropout.p)
        self.backbone.set_net(self.net)
        self.heads = model.heads
        self.sums: list[Tensor] = []
        """|sums| of the present task's steps: inputs, units, candidates."""
        self._both: Tensor | None = None
        self._factors: dict[nn.Parameter, Tensor] = {}
        self._before: list[Tensor] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.sums = []

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        # Now, and not before the backward pass, where another plugin may have sent other inputs through the model.
        features, sums = self.net.take_parts()
        task = self.backbone.context.task
        losses = [strategy._criterion(self.heads(h, task), strategy.mb_y) for h in features]
        self._both = losses[0] + losses[1]
        self.sums = [old + new for old, new in zip(self.sums, sums, strict=True)] if self.sums else list(sums)
        t = strategy.experience.current_experience
        self._factors = keeper_factors(self.net.keeper, self.sums, free_share(t)) if t > 0 else {}

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss + self._both
        self._both = None  # or its graph would live on

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self._before = [p.detach().clone() for p in self._factors]

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        for (p, factor), before in zip(self._factors.items(), self._before, strict=True):
            p.copy_(torch.lerp(before, p, factor.expand_as(p)))
        self._before = []


@register_strategy(
    "srk",
    title="shared knowledge from a sequence of domains",
    paper="Lv, Wang, Liu, Chen, Zhang: Sentiment Classification by Leveraging the Shared Knowledge from a Sequence of "
    "Domains, DASFAA 2019",
    url="https://doi.org/10.1007/978-3-030-18576-3_47",
    backbones=("bert_frozen", "w2v", "w2v_as"),
    reason="it is a pair of recurrent nets over fixed token vectors",
    # Its nets' width is that of the backbone's GRU; the original toolkit has no dropout.
    presets=tuple(
        ({"backbone": name}, {"backbone_options": {"net": "gru", "dropout": 0.0}}) for name in ("bert_frozen", "w2v*")
    ),
)
class SRK(ContinualStrategy):
    """Shared knowledge from a sequence of domains; arguments as in `ContinualStrategy`."""

    def __init__(self, *, model: Any, plugins: list[Any] | None = None, **base_kwargs: Any) -> None:
        self.knowledge = SRKPlugin(model)
        super().__init__(model=model, plugins=[*(plugins or []), self.knowledge], **base_kwargs)
