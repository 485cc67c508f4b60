"""Contrast between views of a mini-batch, and attention over the features that several tasks' masks give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nlpcl.models.sizes import PerTask, tensor_bytes


def contrastive_loss(views: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020, eq. 2), averaged over all anchors, a scalar.

    For anchor i: -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p / tau) / sum_{a != i} exp(z_i.z_a / tau) ), where P(i) are
    the vectors of i's label in all views, without i. Labels that all differ make it the unsupervised loss: the only
    positives of i are its own other views.

    :param views: normalised vectors z, (..., V, B, F) with V >= 2 views of B examples; what leads is averaged over.
    :param labels: (B,), equal where two examples belong together.
    :param temperature: tau > 0.
    """
    z = views.flatten(-3, -2)
    labels = labels.repeat(views.shape[-3])
    itself = torch.eye(len(labels), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & ~itself
    similarity = z @ z.transpose(-1, -2) / temperature
    log_p = similarity.masked_fill(itself, float("-inf")).log_softmax(dim=-1)
    return -(log_p.masked_fill(~positive, 0.0).sum(dim=-1) / positive.sum(dim=-1)).mean()


class TaskAttention(nn.Module):
    """Self-attention between the features that n tasks' masks give: x + gamma V softmax(Q'K)'.

    Q, K and V are linear maps of x along the axis of the tasks; Q'K, (n, n) for each sample, sums over features, and
    the softmax is over its second axis. gamma starts at 0 (Zhang et al. 2019, SAGAN, whose layer CLASSIC takes).

    :param tasks: n.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.query = nn.Linear(tasks, tasks)
        self.key = nn.Linear(tasks, tasks)
        self.value = nn.Linear(tasks, tasks)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, F, n) to (B, F, n)."""
        energy = self.query(x).transpose(1, 2) @ self.key(x)
        attended: Tensor = self.value(x) @ energy.softmax(dim=-1).transpose(1, 2)
        return x + self.gamma * attended


class TaskAttentions(PerTask):
    """One `TaskAttention` for every task but the first: over the tasks before it and itself.

    :param n_tasks: number of tasks T.
    """

    kind = "attention"

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(TaskAttention(tasks) for tasks in range(2, n_tasks + 1))

    def begin(self, previous: int) -> None:
        """Train only the attention over `previous` tasks and the current one from now on; with 0, none."""
        for i, attention in enumerate(self.attentions, start=1):
            attention.requires_grad_(i == previous)

    def forward(self, x: Tensor) -> Tensor:
        """Pass features (B, F, n), n >= 2, through the attention over n tasks, (B, F, n)."""
        attended: Tensor = self.attentions[x.shape[-1] - 2](x)
        return attended

    def bytes_for(self, tasks: int) -> int:
        """Return the bytes of the attentions of the first `tasks` tasks."""
        return tensor_bytes(p for attention in self.attentions[: max(tasks - 1, 0)] for p in attention.parameters())
