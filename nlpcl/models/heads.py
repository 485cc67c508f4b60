"""Classification heads: one per task, or one shared by all domains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from nlpcl.models.device import to_device
from nlpcl.models.sizes import PerTask, tensor_bytes

ABSENT = -1000.0
"""Logit of a class that a narrower head does not have, in mini-batches of several tasks."""


class TaskHeads(MultiTaskModule, PerTask):
    """One linear head per task (task-incremental learning).

    :param features: F, the backbone's width.
    :param classes: number of classes of each task.
    """

    kind = "heads"
    state = ("known_train_tasks_labels", "max_class_label")

    def __init__(self, features: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(features, n) for n in classes)
        self.n_tasks = len(classes)
        self.classes = torch.tensor(classes)

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Return logits: (B, C_t) for one task, (B, max C) with `ABSENT` in the missing columns for several.

        Heads of tasks that do not occur stay out of the graph: a gradient of 0 would let weight decay move them.

        :param x: features (B, F).
        :param task_labels: one int, or (B,). Labels on a GPU make the host wait, as it must know which tasks occur.
        """
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        present, row = torch.unique(task_labels.cpu(), return_inverse=True)
        weight = torch.cat([self.linears[task].weight for task in present.tolist()])
        bias = torch.cat([self.linears[task].bias for task in present.tolist()])
        classes = self.classes[present].unsqueeze(1)
        column, start = torch.arange(int(self.classes.max())), classes.cumsum(dim=0) - classes
        columns = to_device((start + torch.minimum(column, classes - 1))[row], x.device)
        absent = to_device((column >= classes)[row], x.device)
        return nn.functional.linear(x, weight, bias).gather(1, columns).masked_fill(absent, ABSENT)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Return logits (B, C_t) of head `task_label`.

        :raises ValueError: there is no such head.
        """
        if not 0 <= task_label < self.n_tasks:
            raise ValueError(f"the model has heads for tasks 0 to {self.n_tasks - 1}, not for task {task_label}")
        logits: Tensor = self.linears[task_label](x)
        return logits

    def bytes_for(self, tasks: int) -> int:
        """Return the bytes of the first `tasks` heads."""
        return tensor_bytes(p for linear in self.linears[:tasks] for p in linear.parameters())


class SharedHead(nn.Module):
    """One linear head for all domains (domain-incremental learning).

    :param features: F, the backbone's width.
    :param classes: number of classes.
    :param n_tasks: number of domains, for methods that keep something for each.
    """

    def __init__(self, features: int, classes: int, n_tasks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.n_tasks = n_tasks

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Return logits (B, C); the task labels are ignored."""
        logits: Tensor = self.linear(x)
        return logits
