"""CLASSIC: continual and contrastive learning (Ke, Liu, Xu, Shu, EMNLP 2021,
https://aclanthology.org/2021.emnlp-main.550).

HAT's masks on the adapters, and contrast between features that draws what earlier masks know into the current one, so
that at test the last mask serves all domains.

    L = CE + lambda R + l3 CSC + 1[t > 0] (l2 CKS + l1 CED)           (R: HAT's sparsity loss)
    CSC = SupCon([z, z'], y)                                          (supervised contrast of the current task)
    CKS = CE(head(m), y) + SupCon([z, m/|m|], y)                      (knowledge sharing)
    CED = 1/t sum_{k<t} SupCon([z, h_k/|h_k|], sample)                (ensemble distillation, positives: same sample)

z and z' are the normalised feature h of the current mask after two draws of the dropout before the head: one pass of
the encoder serves both. h_k are features under the masks of the previous tasks k, without gradient or dropout.
m = dropout(sum over the tasks of attention([h_0 .. h_{t-1} h])), with an attention along the axis of the tasks that
each task but the first has for itself.

Where it differs from the original code: distillation is on, and from all previous tasks, where the original leaves it
off or takes the last one; it is the mean over them, so its weight does not grow with t; CSC contrasts two draws of the
dropout, not a view with its copy; R counts once, not once more in CKS; h_k is computed with the encoder's dropout off.
As masks are hard and LayerNorms frozen, the h_k do not change while a task trains: they are computed once per task and
travel with the examples (4 t F bytes each), so of a step only the attention and CED's small products grow with t.
`parity=True` restores what it does for HAT; with soft masks and LayerNorms that train in every task the h_k do change,
and are computed in each step.

Shared and not maskable, and inference without task labels: as in `hat.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks.utils import DataAttribute
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from nlpcl.models.base import ContinualModel, continual_model
from nlpcl.models.device import to_device
from nlpcl.models.sizes import PerTask, tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Temperature, Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.backbones import adapter_backbone
from nlpcl.strategies._shared.masks import ORIGINAL_GATES, GatePlugin, MaskInference, MaskInferenceOptions
from nlpcl.training import distributed
from nlpcl.training.batches import numbered_batches
from nlpcl.training.forward import autocast, mode, on_device
from nlpcl.training.plugin import TaskData


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


class CLASSICOptions(MaskInferenceOptions):
    """The options of CLASSIC."""

    distillation: Weight = option(1.0, "weight l1 of the distillation from previous masks; 1 in the original toolkit")
    sharing: Weight = option(1.0, "weight l2 of knowledge sharing; 1 in the original toolkit")
    contrast: Weight = option(1.0, "weight l3 of the current task's contrast; 1 in the original toolkit")
    temperature: Temperature = option(1.0, "tau of every contrast; 1 in the original toolkit")


@register_strategy(
    "classic",
    title="contrastive continual learning",
    paper="Ke, Liu, Xu, Shu: CLASSIC: Continual and Contrastive Learning of Aspect Sentiment Classification Tasks, "
    "EMNLP 2021",
    url="https://aclanthology.org/2021.emnlp-main.550",
    backbones=("bert_adapter",),
    reason="it contrasts the features that the masks of a frozen encoder's adapters give",
    presets=ORIGINAL_GATES,
    ddp=True,
)
class CLASSIC(MaskInference):
    """Masks and contrast."""

    options_type = CLASSICOptions
    options: CLASSICOptions
    model: ContinualModel
    task_state = ("previous",)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.previous: list[int] = []

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> GatePlugin:
        model = continual_model(model, type(self).__name__)
        self.backbone = adapter_backbone(model, type(self).__name__)
        self.attentions = TaskAttentions(model.n_tasks)
        self.backbone.attentions = self.attentions  # so that they are saved, moved and trained with the model
        return super().make_plugin(model, optimizer)

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Adapt the experience's data: each example gets its features under the previous tasks' masks."""
        super().train_dataset_adaptation(**kwargs)
        gates = self.masks.gates
        self.previous = [k for k in gates.trained if k != gates.current]
        self.attentions.begin(len(self.previous))
        if self.previous and not self.parity:
            self.adapted_dataset = self._with_previous(self.adapted_dataset)

    def _with_previous(self, data: TaskData) -> TaskData:
        features = torch.zeros(len(data), len(self.previous), self.backbone.width)
        for rows, (x, *_) in numbered_batches(data, self.eval_mb_size, distributed.shard_index()):
            features[rows] = self.previous_features(on_device(self, x)).cpu()
        distributed.all_reduce(features)  # of each example one process has them
        # A list: of a tensor, Avalanche would make nested lists of numbers.
        attribute = DataAttribute(list(features), "previous", use_in_getitem=True)
        return data.update_data_attribute("previous", attribute)

    @torch.no_grad()
    def previous_features(self, x: Tensor) -> Tensor:
        """Return features (B, t, F) of inputs `x` under the stored masks of the t previous tasks, without dropout."""
        with mode(self.model, training=False):
            return torch.stack([self._represent(x, task) for task in self.masks.gates.each(self.previous)], dim=1)

    def _represent(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        with autocast(self):
            return self.backbone.represent(x, task_labels).float()

    def _unpack_minibatch(self) -> None:
        if self.is_training and self.previous and not self.parity:
            *batch, previous = self.mbatch
            self.mbatch = batch  # ends with the task labels again, where everything else looks for them
            self.mb_previous = to_device(distributed.shard(previous), self.device)
        super()._unpack_minibatch()

    def forward(self) -> Tensor:
        """Return the logits of the mini-batch; in training, keep the features they come from for the loss."""
        if not self.is_training:
            return super().forward()
        if self.previous and self.parity:
            self.mb_previous = self.previous_features(self.mb_x)
        self.mb_pooled = self._represent(self.mb_x, self.tasks)
        self.mb_features = self.backbone.dropout(self.mb_pooled)
        logits: Tensor = self.model.heads(self.mb_features, self.tasks)
        return logits

    def criterion(self) -> Tensor:
        """Return CE of the mini-batch, in training + l3 CSC + 1[t > 0] (l2 CKS + l1 CED); `masks` add lambda R."""
        loss = super().criterion()
        if self.is_training:
            csc = self._contrast_with(self.backbone.dropout(self.mb_pooled), by_class=True)
            loss = loss + self.options.contrast * csc
        if self.is_training and self.previous:
            cks, ced = self.shared_knowledge(), self._contrast_with(self.mb_previous, by_class=False)
            loss = loss + self.options.sharing * cks + self.options.distillation * ced
        return loss

    def shared_knowledge(self) -> Tensor:
        """Return CKS: what the attention makes of all tasks' features is classified, and contrasted with z."""
        stacked = torch.cat([self.mb_previous, self.mb_pooled.unsqueeze(1)], dim=1).transpose(1, 2)
        mixed = self.backbone.dropout(self.attentions(stacked).sum(dim=-1))
        classified = self._criterion(self.model.heads(mixed, self.tasks), self.mb_y)
        return classified + self._contrast_with(mixed, by_class=True)

    def _contrast_with(self, other: Tensor, *, by_class: bool) -> Tensor:
        """Return SupCon of z and `other`, (B, F) or the mean over (B, t, F), over the rows of all processes.

        :param by_class: positives are those of the same class, else those of the same sample.
        """
        z, others = (distributed.all_gather(F.normalize(x, dim=-1), self.mb_rows) for x in (self.mb_features, other))
        others = others.movedim(0, -2)
        labels = distributed.all_gather(self.mb_y, self.mb_rows) if by_class else torch.arange(len(z), device=z.device)
        return contrastive_loss(torch.stack([z.expand_as(others), others], dim=-3), labels, self.options.temperature)

    def _drop_batch(self) -> None:
        super()._drop_batch()
        # They hold a graph, which cannot be copied and means nothing later.
        self.mb_previous = self.mb_pooled = self.mb_features = torch.empty(0)
