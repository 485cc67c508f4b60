"""SRK: shared knowledge from a sequence of domains (Lv, Wang, Liu, Chen, Zhang, DASFAA 2019,
https://doi.org/10.1007/978-3-030-18576-3_47).

Two recurrent nets read a text: one learns the task's features (F), the other retains what tasks share (K) and may move
less from task to task. A gate mixes their last states.

    r = sigma(x_r + h_r),  i = sigma(x_i + h_i),  n = squeeze(x_n + r h_n),  h' = n + i (h - n)      (both nets)
    squeeze(n) = c + 0.001 (n - c),  c = n within [0, 0.9];   x_. = W_x. x + b_x.,  h_. = W_h. h + b_h.
    g = sigma(W_F h_F + W_K h_K),  h = (1 - g) h_F + g h_K
    L = CE(head(h)) + CE(head(h_F)) + CE(head(h_K))

Three vectors say how much past tasks used net K's inputs, its units and its candidates: the sums of x, of h and of
r h_n over a mini-batch's real tokens, their absolute values added up over all steps of those tasks, and the result c
brought to [0, 1] by its minimum and maximum. In a task t > 0 the share

    s_t = 0.9 exp(-0.1 t) + 0.1

of the entries with the smallest c are free: a step moves them by (1 - c) of what it would; the others stay. The inputs'
factors act on the columns of W_x, the units' on the columns of W_h and on the biases of r and i, the candidates' on
those of n. Net F, the gate and the heads train freely.

The factors act on the step, weight decay included, where the original code has them on the gradient: with plain SGD
that is the same, and an optimizer such as Adam would scale a gradient back to where it was. Norms are
clipped before.

Where it differs from the original code: factors are those of the unit they act on, which there they are not, being
taken in sorted order; they come from earlier tasks and hold for a whole task, as in the TensorFlow code of SRK that is
kept beside KAN's (github.com/ZixuanKe/LifelongSentClass), where the original code adds the mini-batch in hand to the
sums and brings them to [0, 1] at every step, so that it outweighs all of the past; sums hold real tokens alone; the
biases of r had the inputs' factors, though inputs are no units; states are those at the last real token; squeeze has no
jump at 0.9.
With `parity=True` the nets read padding, too, and what `ContinualStrategy` lists is restored; it has nothing else of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nlpcl.models.base import ContinualModel
from nlpcl.models.frozen import TokenNet, last_state
from nlpcl.models.sizes import tensor_bytes
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.backbones import recurrent_backbone
from nlpcl.training import distributed
from nlpcl.training.internals import criterion_of
from nlpcl.training.plugin import Plugin, Strategy
from nlpcl.training.strategy import ContinualStrategy, StrategyOptions, minibatch_rows

CEILING = 0.9
SLOPE = 0.001


def squeeze(n: Tensor) -> Tensor:
    """Return n within [0, 0.9], and beyond it 0.001 of what exceeds it."""
    inside = n.clamp(0, CEILING)
    return torch.lerp(inside, n, SLOPE)


def free_share(task: int) -> float:
    """Return s_t = 0.9 exp(-0.1 t) + 0.1, the share of entries that may move."""
    return 0.9 * math.exp(-0.1 * task) + 0.1


def update_factors(sums: Tensor, share: float) -> Tensor:
    """Return the factors (N,) on the steps of N entries: 1 - c for the floor(share N) of smallest c, 0 for the others.

    :param sums: (N,), at least 0; c is them minus their minimum, over their range.
    :param share: in [0, 1].
    """
    low, high = sums.aminmax()
    control = (sums - low) / (high - low).clamp(min=torch.finfo(sums.dtype).tiny)
    smallest, where = control.topk(int(share * len(control)), largest=False)
    return torch.zeros_like(control).scatter(0, where, 1 - smallest)


class SqueezedGRU(nn.Module):
    """The weights of a GRU whose candidate is squeezed instead of passed through tanh; `squeezed_states` runs it.

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


class _Recurrence(torch.autograd.Function):
    """The loop over the tokens, and its derivative with no more than one product of matrices for each token.

    torch has no such cell, and a state depends on the one before. Autograd would, token by token, add up the gradient
    of W_h; here one product gives it in the end.
    """

    @staticmethod
    def forward(ctx: Any, of_x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """States h' and r h_n, (L, N, B, H) each, of x_r, x_i, x_n (L, N, B, 3H), W_h (N, 3H, H) and b_h (N, 3H)."""
        hidden = weight.shape[-1]
        transposed, bias = weight.mT.contiguous(), bias.unsqueeze(1)
        h = of_x.new_zeros(*of_x.shape[1:3], hidden)
        kept: list[tuple[Tensor, ...]] = []
        for step in of_x:
            of_h = torch.baddbmm(bias, h, transposed)
            gates = (step[..., : 2 * hidden] + of_h[..., : 2 * hidden]).sigmoid()
            r, i = gates.chunk(2, dim=-1)
            h_n = of_h[..., 2 * hidden :]
            n = torch.addcmul(step[..., 2 * hidden :], r, h_n)
            h = torch.lerp(squeeze(n), h, i)
            kept.append((h, gates, h_n, n))
        states, gates, h_n, n = (torch.stack(tensors) for tensors in zip(*kept, strict=True))
        candidates = gates[..., :hidden] * h_n
        ctx.save_for_backward(weight, states, gates, h_n, n)
        ctx.mark_non_differentiable(candidates)
        return states, candidates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_states: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, states, gates, h_n, n = ctx.saved_tensors
        r, i = gates.chunk(2, dim=-1)
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
        # dh' / dn, and dh' / d of what r and i are the sigmoids of.
        by_n = (1 - i) * torch.where((n >= 0) & (n <= CEILING), 1.0, SLOPE)
        by_gates = torch.cat([by_n * h_n, before - squeeze(n)], dim=-1) * gates * (1 - gates)
        by_h = torch.cat([by_gates, by_n * r], dim=-1).unflatten(-1, (3, -1))
        total = torch.zeros_like(of_states[0])
        totals, of_h = [], []
        for state, slope, keep in zip(of_states.flip(0), by_h.flip(0), i.flip(0), strict=True):
            total = total + state
            totals.append(total)
            of_h.append((slope * total.unsqueeze(-2)).flatten(-2))
            total = torch.baddbmm(total * keep, of_h[-1], weight)
        every, of_every_h = torch.stack(totals[::-1]), torch.stack(of_h[::-1])
        of_x = torch.cat([of_every_h[..., : gates.shape[-1]], by_n * every], dim=-1)
        of_weight = of_every_h.transpose(0, 1).flatten(1, 2).mT @ before.transpose(0, 1).flatten(1, 2)
        return of_x, of_weight, of_every_h.sum(dim=(0, 2))


def squeezed_states(nets: Sequence[SqueezedGRU], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return h' after and r h_n at every token of x (B, L, channels), for N nets of one size side by side.

    :return: (N, B, L, H) each, float32; r h_n without a graph.
    """
    of_x = torch.stack([net.x2h(x) for net in nets]).float().permute(2, 0, 1, 3)
    weight = torch.stack([net.h2h.weight for net in nets])
    bias = torch.stack([net.h2h.bias for net in nets])
    with torch.autocast(x.device.type, enabled=False):
        states, candidates = _Recurrence.apply(of_x, weight, bias)
    return states.permute(1, 2, 0, 3), candidates.permute(1, 2, 0, 3)


@torch.no_grad()
def control_sums(x: Tensor, states: Tensor, candidates: Tensor, mask: Tensor) -> Tensor:
    """Sum inputs x, the states h before each token, and r h_n over the real tokens of a mini-batch, (C + H + H,).

    :param x: (B, L, C); states and candidates: (B, L, H), as `squeezed_states` gives them; mask: (B, L).
    """
    real = mask.to(states.dtype)

    def total(values: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("bln,bl->n", values.to(weight.dtype), weight)

    # Before the first token the state is 0, before any other it is that after the one before.
    return torch.cat([total(x, real), total(states[:, :-1], real[:, 1:]), total(candidates, real)])


class SRKNet(TokenNet):
    """Nets F and K, the gate that mixes their last states, and how much tasks have used K.

    :param channels: width of a token vector.
    :param hidden: number of units of either net.
    :param dropout: probability of dropping a unit of any of the three features.
    """

    sums: Tensor
    """Control sums (C + H + H,) of all training steps so far."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.width = hidden
        self.learner = SqueezedGRU(channels, hidden)
        self.keeper = SqueezedGRU(channels, hidden)
        self.from_learner = nn.Linear(hidden, hidden, bias=False)
        self.from_keeper = nn.Linear(hidden, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("sums", torch.zeros(channels + 2 * hidden))
        self._parts: tuple[list[Tensor], Tensor] | None = None

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Features h (B, width) of vectors (B, L, C); mask (B, L) is True on the leading real tokens."""
        (of_learner, of_keeper), (_, candidates) = squeezed_states([self.learner, self.keeper], vectors)
        learnt, kept = last_state(of_learner, mask), last_state(of_keeper, mask)
        g = (self.from_learner(learnt) + self.from_keeper(kept)).sigmoid()
        if self.training:
            parts = [self.dropout(learnt), self.dropout(kept)]
            self._parts = parts, control_sums(vectors, of_keeper, candidates, mask)
        features: Tensor = self.dropout(learnt + g * (kept - learnt))
        return features

    def take_parts(self) -> tuple[list[Tensor], Tensor]:
        """Return [h_F, h_K], (B, width) each, and net K's `control_sums` of the last training mini-batch, once."""
        parts, self._parts = self._parts, None
        assert parts is not None
        return parts

    def __getstate__(self) -> dict[str, Any]:
        # The last mini-batch's parts hold a graph, which cannot be copied and means nothing in a copy.
        return {**self.__dict__, "_parts": None}


def keeper_factors(keeper: SqueezedGRU, sums: Tensor, share: float) -> dict[nn.Parameter, Tensor]:
    """Return the factors on the steps of net K's parameters, broadcastable to them.

    :param sums: of inputs, units and candidates, (C + H + H,), added up over earlier tasks.
    :param share: s_t.
    """
    sizes = [keeper.x2h.in_features, keeper.h2h.in_features, keeper.h2h.in_features]
    inputs, units, candidates = (update_factors(total, share) for total in sums.split(sizes))
    biases = torch.cat([units, units, candidates])
    factors = {
        "x2h.weight": inputs.unsqueeze(0),
        "h2h.weight": units.unsqueeze(0),
        "x2h.bias": biases,
        "h2h.bias": biases,
    }
    return {keeper.get_parameter(name): factor for name, factor in factors.items()}


class SRKPlugin(Plugin[StrategyOptions]):
    """Puts an `SRKNet` on the backbone's token vectors, adds its nets' losses and holds net K's steps back.

    :param model: its backbone's net is a `TextGRU`, which is replaced by nets of the same width.
    """

    task_state = ("_factors",)

    def __init__(self, model: ContinualModel, options: StrategyOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.backbone, gru = recurrent_backbone(model, "srk")
        self.net = SRKNet(gru.channels, gru.width, gru.dropout.p)
        self.backbone.net = self.net
        self.heads = model.heads
        self._factors: dict[nn.Parameter, Tensor] = {}
        self._before: list[Tensor] = []

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        # Before the task adds to the sums.
        t = strategy.experience.current_experience
        self._factors = keeper_factors(self.net.keeper, self.net.sums, free_share(t)) if t > 0 else {}

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        # Now, and not before the backward pass, where another plugin may have sent other inputs through the model.
        features, sums = self.net.take_parts()
        task = self.backbone.context.task
        criterion = criterion_of(strategy)
        losses = [criterion(self.heads(h, task), strategy.mb_y) for h in features]
        strategy.loss = strategy.loss + (losses[0] + losses[1])
        self.net.sums += distributed.all_reduce_rows(sums, minibatch_rows(strategy)).abs()

    def before_update(self, strategy: Strategy, **kwargs: Any) -> None:
        self._before = [p.detach().clone() for p in self._factors]

    @torch.no_grad()
    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        for (p, factor), before in zip(self._factors.items(), self._before, strict=True):
            p.copy_(torch.lerp(before, p, factor.expand_as(p)))
        self._before = []

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the control sums."""
        return {"control_sums": tensor_bytes([self.net.sums])}


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
    ddp=True,
)
class SRK(ContinualStrategy):
    """Shared knowledge from a sequence of domains."""

    plugin_type = SRKPlugin
