"""Knowledge from similar tasks: features under several masks in one pass, attention over them, and readouts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.models.base import Backbone, ContinualModel, TaskLabels, single_task
from nlpcl.models.device import to_device
from nlpcl.models.gates import Gates
from nlpcl.models.heads import ABSENT, TaskHeads
from nlpcl.models.sizes import PerTask, tensor_bytes


class MaskViews:
    """Gives features of a batch under several tasks' masks in one forward pass.

    What stands before the first gates does not depend on the mask, so the batch is repeated right before those: a
    frozen encoder below them, and a first layer of convolutions, are computed once. In an encoder whose own layers are
    gated next to nothing comes before, and its residual stream passes the gates by, so there the inputs are repeated.

    :param backbone: its sites are gated, now or later.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.copies = 1
        for site in backbone.sites():
            if not backbone.pretrained and all(name is None for name, _ in site.inputs):
                site.activation.register_forward_hook(self._repeat, prepend=True)  # before the gate

    def __call__(self, x: Tensor, tasks: Sequence[int]) -> Tensor:
        """Return features (n, B, F) of inputs `x` under the masks of n tasks."""
        gates = cast(Gates, self.backbone.gates)
        labels = to_device(torch.tensor(tasks).repeat_interleave(len(x)), x.device)
        chosen, gates.override = gates.override, None
        self.copies = len(tasks)
        try:
            features = self.backbone.features(self._repeated(x) if self.backbone.pretrained else x, labels).float()
        finally:
            gates.override, self.copies = chosen, 1
        by_task: Tensor = features.unflatten(0, (len(tasks), len(x)))
        return by_task

    def _repeat(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._repeated(output)

    def _repeated(self, x: Tensor) -> Tensor:
        return x if self.copies == 1 else x.repeat(self.copies, *[1] * (x.dim() - 1))


class TaskTransfer(nn.Module):
    """One transformer encoder layer whose only query is a task's own vector, and a head on what comes out.

        q = ReLU(e),  u = LayerNorm(q + Attention(q, H, H)),  h = LayerNorm(u + W2 ReLU(W1 u + b1) + b2)

    :param features: F.
    :param classes: C.
    :param heads: attention heads; if they do not divide F, the next smaller number that does.
    :param dropout: probability of dropping attention weights and units of either branch.
    """

    def __init__(self, features: int, classes: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        heads = next(n for n in range(heads, 0, -1) if features % n == 0)
        self.embedding = nn.Parameter(torch.randn(features))
        self.attention = nn.MultiheadAttention(features, heads, dropout, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) from features (n, B, F) under the masks of n >= 1 tasks."""
        known = features.transpose(0, 1)
        query = self.embedding.relu().expand(len(known), 1, -1)
        mixed = self.attention(query, known, known, need_weights=False)[0]
        hidden = self.norms[0](query + self.dropout(mixed))
        hidden = self.norms[1](hidden + self.dropout(self.feed(hidden)))
        logits: Tensor = self.head(hidden.squeeze(1))
        return logits


class TaskTransfers(PerTask):
    """Knows each task's similar tasks, has a `TaskTransfer` where there are any, and whether that serves at test.

    A transfer is made when its task begins, or when a state that has one is loaded.

    :param features: F.
    :param classes: number of classes of each task.
    :param heads: as in `TaskTransfer`.
    """

    kind = "attention"
    state = ("similar", "chosen")
    device: Tensor

    def __init__(self, features: int, classes: Sequence[int], heads: int) -> None:
        super().__init__()
        self.features = features
        self.classes = list(classes)
        self.heads = heads
        self.similar: list[list[int]] = [[] for _ in classes]
        """The tasks similar to each task, ascending; all of them came before it."""
        self.chosen = [False for _ in classes]
        """Whether the transfer serves the task at test, and not the head of its own mask."""
        self.layers = nn.ModuleDict()
        self.register_buffer("device", torch.empty(0), persistent=False)  # knows where new layers go

    def begin(self, task: int, similar: Sequence[int]) -> None:
        """Let `task` train from now on, with its `similar` tasks; the layers of other tasks stay as they are."""
        self.layers.requires_grad_(False)
        self.similar[task] = list(similar)
        self.chosen[task] = False
        if similar:
            self.add_task(task)

    def of(self, task: int) -> TaskTransfer:
        """Return the transfer of a task that has similar ones."""
        return cast(TaskTransfer, self.layers[str(task)])

    def bytes_for(self, tasks: int) -> int:
        """Return the bytes of the first `tasks` tasks' layers, and one for each entry of `similar` and `chosen`."""
        layers = [self.of(task) for task in range(tasks) if self.similar[task]]
        return tasks * (tasks + 1) // 2 + sum(tensor_bytes(layer.parameters()) for layer in layers)

    def get_extra_state(self) -> Tensor:
        """Return a table (T, T + 1) of which tasks are similar to which, and whose transfer serves."""
        table = torch.zeros(len(self.classes), len(self.classes) + 1, dtype=torch.bool)
        for task, similar in enumerate(self.similar):
            table[task, similar] = True
        table[:, -1] = torch.tensor(self.chosen)
        return table

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the table and make its layers; torch does this before it loads their weights."""
        self.similar = [row[:-1].nonzero().flatten().tolist() for row in state]
        self.chosen = state[:, -1].tolist()
        self.layers.clear()
        for task, similar in enumerate(self.similar):
            if similar:
                self.add_task(task)

    def add_task(self, task: int) -> None:
        """Make the transfer of a new task."""
        self.layers[str(task)] = TaskTransfer(self.features, self.classes[task], self.heads).to(self.device.device)


class TransferModel(ContinualModel):
    """A model around another one's backbone and heads, whose tasks may also be classified by their `TaskTransfer`.

    While a task trains, the logits are those of its own mask, and those of its transfer lie in `transferred` until
    someone takes them. At test each task has the logits of the one chosen for it.

    :param model: its backbone gets gates before the first forward pass.
    :param attention_heads: as in `TaskTransfer`.
    """

    def __init__(self, model: ContinualModel, attention_heads: int) -> None:
        super().__init__(model.backbone, model.heads)
        linears = model.heads.linears if isinstance(model.heads, TaskHeads) else [model.heads.linear] * self.n_tasks
        classes = [cast(nn.Linear, linear).out_features for linear in linears]
        self.transfers = TaskTransfers(self.backbone.width, classes, attention_heads)
        self.views = MaskViews(self.backbone)
        self.transferred: Tensor | None = None

    def forward_single_task(self, x: Tensor, task_label: TaskLabels) -> Tensor:
        task = single_task(task_label)
        gates = cast(Gates, self.backbone.gates)
        served = task if gates.override is None else gates.override
        if not isinstance(served, int):
            return self._mixed(x, served)
        if self.training and served == gates.current and self.transfers.similar[served]:
            logits, self.transferred = self.both(x, served)
            return logits
        return self._transfer(x, served) if self.transfers.chosen[served] else super().forward_single_task(x, task)

    def both(self, x: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) of a task's own mask, and of its transfer, which it must have."""
        features = self.views(x, [task, *self.transfers.similar[task]])
        with torch.autocast(x.device.type, enabled=False):
            return self.heads(features[0], task), self.transfers.of(task)(features[1:])

    def _transfer(self, x: Tensor, task: int) -> Tensor:
        features = self.views(x, self.transfers.similar[task])
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.transfers.of(task)(features)
        return logits

    def _mixed(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Return logits of a batch of several tasks; each transfer that serves sees its task's examples."""
        logits = super().forward_single_task(x, tasks)
        for task in (task for task, chosen in enumerate(self.transfers.chosen) if chosen):
            rows = (tasks == task).nonzero().flatten().to(x.device)
            if len(rows):
                own = self._transfer(x[rows], task)
                logits = logits.index_copy(0, rows, F.pad(own, (0, logits.shape[1] - own.shape[1]), value=ABSENT))
        return logits

    def __getstate__(self) -> dict[str, Any]:
        # Logits that nobody has taken hold a graph, which cannot be copied and means nothing in a copy.
        return {**self.__dict__, "transferred": None}


def train_readouts(
    features: Tensor, targets: Tensor, classes: int, *, steps: int, learning_rate: float, batch_size: int = 128
) -> tuple[Tensor, Tensor]:
    """Train softmax regressions from the features under n masks, each as if alone, in one batched product.

    They start at 0 and take Adam's steps on the same random mini-batches.

    :param features: (N, n, F).
    :param targets: LongTensor (N,).
    :param classes: C.
    :return: weights (n, F, C) and biases (n, 1, C).
    """
    n, width = features.shape[1:]
    weight = features.new_zeros(n, width, classes, requires_grad=True)
    bias = features.new_zeros(n, 1, classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=learning_rate)
    size = min(batch_size, len(features))
    for _ in range(steps):
        rows = torch.randint(len(features), (size,), device=features.device)
        logits = readout_logits(features[rows], weight, bias)
        loss = F.cross_entropy(logits.flatten(0, 1), targets[rows].repeat(n), reduction="sum") / size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach(), bias.detach()


def readout_logits(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return logits (n, N, C) of n readouts for features (N, n, F)."""
    return torch.baddbmm(bias, features.transpose(0, 1), weight)
