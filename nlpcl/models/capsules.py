"""Capsules on token representations: task capsules and CTR's transfer routing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models.adapters import Adapter, init_linear
from nlpcl.models.base import Context

KERNELS = (3, 4, 5)


def squash(v: Tensor) -> Tensor:
    """|v|^2 / (1 + |v|^2) * v / |v| over the last axis (Sabour et al. 2017, eq. 1), finite at 0."""
    square = v.square().sum(dim=-1, keepdim=True)
    return v * (square + 1e-12).sqrt() / (1 + square)


class TaskCapsules(nn.Module):
    """One linear map per task and token: p_k = squash(F_k x).

    :param hidden: H.
    :param n_tasks: T.
    :param size: length of a capsule.
    """

    def __init__(self, hidden: int, n_tasks: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_tasks, size, hidden) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_tasks, size))

    def forward(self, x: Tensor, tasks: int) -> Tensor:
        """Capsules (B, L, k, size) of the first k = `tasks` tasks, for x (B, L, H)."""
        weight, bias = self.weight[:tasks], self.bias[:tasks]
        return squash(F.linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(-1, bias.shape))


class MaxConvolution(nn.Module):
    """max over positions of Conv_K(u) for K = 3, 4, 5, before the ReLU; padding K - 2 on both sides.

    Positions beyond a text's end are as if they were not there, so trimming changes nothing.

    :param channels: input channels.
    :param filters: filters of each kernel size.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(channels, filters, k, padding=k - 2) for k in KERNELS)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """(N, 3 * filters), for u (N, L, channels) and mask (N, L), True on the leading real positions."""
        u = (u * mask.unsqueeze(-1)).transpose(1, 2)
        lengths = mask.sum(dim=1, keepdim=True)
        best = []
        for kernel, convolution in zip(KERNELS, self.convolutions, strict=True):
            out = convolution(u)
            outside = torch.arange(out.shape[2], device=u.device) >= lengths + kernel - 3
            best.append(out.masked_fill(outside.unsqueeze(1), float("-inf")).amax(dim=2))
        return torch.cat(best, dim=1)


class TransferRouting(nn.Module):
    """CTR's transfer capsules: what task t takes from tasks k <= t, for each token.

    u_{n|k} = W_{nk} p_k; q = ReLU(max Conv(U_t)); z_k = ReLU(max Conv'(U_k) + W_q q); similarity s_k and
    decision d_k from z_k; v_n = sum_{k<=t} d_k s_{k,n} u_{n|k}; output Linear([v_1 v_2 v_3]).
    The ReLU follows the maximum, which is the same thing, as q does not depend on the position.

    :param hidden: H of the output.
    :param n_tasks: T.
    :param size: length of a capsule.
    :param capsules: number of transfer capsules n.
    :param filters: filters of each kernel size.
    """

    def __init__(self, hidden: int, n_tasks: int, size: int, capsules: int, filters: int = 100) -> None:
        super().__init__()
        channels, summary = capsules * size, len(KERNELS) * filters
        self.route = nn.Parameter(torch.randn(n_tasks, capsules, size, size))
        self.query = MaxConvolution(channels, filters)
        self.key = MaxConvolution(channels, filters)
        self.query_map = init_linear(nn.Linear(summary, summary))
        self.similarity = init_linear(nn.Linear(summary, channels))
        self.decision = init_linear(nn.Linear(summary, 2))
        self.out = init_linear(nn.Linear(channels, hidden))

    def forward(self, p: Tensor, task: Tensor | int, mask: Tensor) -> Tensor:
        """Knowledge (B, L, H) for task `task`.

        :param p: task capsules (B, L, K, size); with an int task K = task + 1, otherwise K = T.
        :param task: one int, or (B,); tasks after a sample's own have no say.
        :param mask: (B, L), True on real tokens.
        """
        batch, _, tasks, _ = p.shape
        votes = torch.einsum("knij,blkj->bklni", self.route[:tasks], p).flatten(3)  # (B, K, L, 9)
        if isinstance(task, int):
            own, allowed = votes[:, task], None
        else:
            own = votes[torch.arange(batch, device=p.device), task]
            allowed = torch.arange(tasks, device=p.device) <= task.unsqueeze(1)
        query = self.query_map(F.relu(self.query(own, mask)))
        keys = self.key(votes.flatten(0, 1), mask.repeat_interleave(tasks, dim=0)).unflatten(0, (batch, tasks))
        z = F.relu(keys + query.unsqueeze(1))
        weight = self.decide(self.decision(z)).unsqueeze(-1) * self.similarity(z)  # (B, K, 9)
        if allowed is not None:
            weight = weight * allowed.unsqueeze(-1)
        return self.out(torch.einsum("bkc,bklc->blc", weight, votes))

    def decide(self, logits: Tensor) -> Tensor:
        """d_k in {0, 1}, (B, K): Gumbel-softmax, straight through, in training; argmax at test."""
        if self.training:
            return F.gumbel_softmax(logits, tau=1.0, hard=True)[..., 0]
        return (logits[..., 0] > logits[..., 1]).to(logits.dtype)


class TransferAdapter(Adapter):
    """CTR's plug-in: u = x + TransferRouting(TaskCapsules(x)); out = x + bottleneck(u).

    :param hidden: H.
    :param size: width of the inner layer.
    :param n_tasks: T.
    :param context: says the task and the attention mask of the batch.
    :param capsule_size: length of a capsule.
    :param capsules: number of transfer capsules.
    """

    def __init__(
        self, hidden: int, size: int, n_tasks: int, context: Context, capsule_size: int = 3, capsules: int = 3
    ) -> None:
        super().__init__(hidden, size)
        self.tasks = TaskCapsules(hidden, n_tasks, capsule_size)
        self.routing = TransferRouting(hidden, n_tasks, capsule_size, capsules)
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        task, mask = self.context.task, self.context.mask
        assert mask is not None
        tasks = task + 1 if isinstance(task, int) else self.tasks.bias.shape[0]
        return x + self.bottleneck(x + self.routing(self.tasks(x, tasks), task, mask))
