"""CAT: continual learning of similar and dissimilar tasks (Ke, Liu, Huang, NeurIPS 2020,
https://arxiv.org/abs/2112.10017).

HAT's masks, but only against tasks that are dissimilar to the new one: what similar tasks use goes on learning, and an
attention over their features passes on what they know.

    sim(t,k) = 1[A_k > A_ref]                                         (accuracies on validation data of task t)
    h_k: features under the mask of a task k with sim(t,k) = 1;  q_t = ReLU(e_t)
    L = CE(head(h_t)) + lambda R + w CE(head'(EncoderLayer(q_t; {h_k})))     (R: HAT's sparsity loss)
    dW_{l,ij} <- dW_{l,ij} (1 - min(A_{l,i}, A_{l-1,j})),  A = max over the tasks k < t with sim(t,k) = 0 of a^k

A_k is what a linear readout of the frozen net under mask k reaches, A_ref a model without masks that is trained on
task t alone, from the initial weights (of an encoder: the pretrained ones), for as many epochs as CAT trains on it and
with all of its settings, best epoch and plateau included. The masks behind h_k do not train, the weights do, as far as
no dissimilar task's mask blocks them. At the end of a task its two heads are compared on the validation data, and the
better one serves from then on. Where validation data choose the epoch, they do so by L without R.

Validation data are those of the stream, if the experience's stream knows its benchmark; else a tenth of the training
data, which is then not trained on. Never test data.

Where it differs from the original code: the reference is a model from scratch, not a readout of the net under an
untrained mask; detection sees the stored masks, not those at s = 1; similar tasks are attended, dissimilar ones are
not; the second head is trained, tested, and chosen once, without keeping validation data of old tasks; each task has
an attention of its own, which nothing later can change, and as many attention heads as divide the features' width.
Blocking is lifted only from what no dissimilar task uses, not from all that a similar one was the first to use. With
one similar task the attention has one key, and with none there is no second head: the original then reads features of
all units that dissimilar tasks were not the first to use, among them free ones, which later tasks overwrite.
`parity=True` restores what it does for HAT.

Cost: for task t a second training (the reference), and t readouts, which are trained together on features that are
computed once (4 N t F bytes while they train); per step the net once more for each similar task. What stands before the
first gates is computed once for all masks, so that what grows with t is small but in an encoder that trains: there it
is the whole encoder. Over T tasks, O(T) trainings, O(T^2) readouts and passes over the data. The initial weights of all
that trains are kept for the references, there a second encoder (`kept_bytes` says how much); a reference in training is
one more, with its optimizer.

Not protected: a task's units, from later tasks similar to it, as in the paper; so also what a chosen attention reads
in its similar tasks' units, from a later task that is similar to those but not to it. Shared and not maskable, and
inference without task labels: as in `hat.py`; there a mask comes with the head chosen for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nlpcl.models.base import ContinualModel, continual_model
from nlpcl.models.sizes import tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Count, Rate, Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.masks import MASK_PRESETS, MaskInference, MaskInferenceOptions, MaskPlugin, site_factors
from nlpcl.strategies.cat.task_transfer import TransferModel, readout_logits, train_readouts
from nlpcl.training import distributed
from nlpcl.training.batches import numbered_batches
from nlpcl.training.early_stopping import validation_of
from nlpcl.training.forward import autocast, logits_of, mode, on_device
from nlpcl.training.internals import criterion_of
from nlpcl.training.optimizers import template_for
from nlpcl.training.plugin import Experience, Plugin, Strategy, TaskData
from nlpcl.training.strategy import ContinualStrategy

HELD_OUT = 0.1
"""Share of the training data that serves as validation data where there are no others."""


def data_for(experience: Experience) -> tuple[Any, Any, bool]:
    """Return an experience's training and validation data, and whether the latter are held out of the former."""
    data, valid = experience.dataset.train(), validation_of(experience)
    if valid is not None:
        return data, valid, False
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    cut = max(1, round(HELD_OUT * len(data)))
    return data.subset(rows[cut:]), data.subset(rows[:cut]).eval(), True


def batches(data: TaskData, strategy: Strategy) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield row numbers, inputs and targets of all data, batch by batch, of like length and trimmed to it."""
    for rows, (x, y, *_) in numbered_batches(data, strategy.eval_mb_size):
        yield rows, on_device(strategy, x), y.to(strategy.device)


class TrainsOn(Plugin):
    """Puts other training data in the place of the experience's."""

    def __init__(self, data: TaskData) -> None:
        super().__init__()
        self.data = data

    def after_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.adapted_dataset = self.data


class CATOptions(MaskInferenceOptions):
    """The options of CAT."""

    model_weight: Weight = option(1.0, "weight w of the attention head's loss; 1 in the original toolkit")
    attention_heads: Count = option(
        5, "heads of the attention, fewer where they do not divide the width; 5 in the paper"
    )
    readout_steps: Count = option(500, "steps of a readout in the detection of similar tasks; chosen here")
    readout_learning_rate: Rate = option(0.01, "learning rate of a readout; chosen here")


class CATPlugin(MaskPlugin[CATOptions]):
    """Hard attention to the task, lifted between similar tasks, with a second head that attends to those.

    :param model: the model that the strategy trains; it has the attention's heads.
    """

    state = ("initial",)

    def __init__(self, model: TransferModel, options: CATOptions | None = None, **values: Any) -> None:
        # Before it has gates. What never trains is shared, not copied.
        self.initial = copied(ContinualModel(model.backbone, model.heads))
        super().__init__(model, options, **values)
        self.model = model
        self.data: tuple[Any, Any, bool] = (None, None, False)

    def factors(self, task: int) -> dict[nn.Parameter, Tensor]:
        known = {task, *self.model.transfers.similar[task]}
        masks = [torch.zeros_like(self.gates.used), *(self.gates.mask(k) for k in self.gates.trained if k not in known)]
        return site_factors(self.sites, self.gates.by_site(torch.stack(masks).amax(dim=0)))

    def kept_bytes(self) -> dict[str, int]:
        return {"initial": tensor_bytes(p for p in self.initial.parameters() if p.requires_grad)}

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        super().before_train_dataset_adaptation(strategy, **kwargs)
        task = strategy.experience.current_experience
        self.data = data_for(strategy.experience)
        previous = [k for k in self.gates.trained if k != task]
        self.model.transfers.begin(task, self.similar_tasks(strategy, task, previous) if previous else [])

    def after_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        train, _, held_out = self.data
        if held_out:
            strategy.adapted_dataset = train

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        super().before_backward(strategy, **kwargs)
        if self.model.transferred is not None:
            transferred, self.model.transferred = self.model.transferred, None
            loss = criterion_of(strategy)(transferred, strategy.mb_y)
            strategy.loss = strategy.loss + self.options.model_weight * loss

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        task = strategy.experience.current_experience
        if self.model.transfers.similar[task]:
            own, transferred = self.validation_accuracies(strategy, task)
            self.model.transfers.chosen[task] = transferred > own
        self.data = (None, None, False)

    def similar_tasks(self, strategy: Strategy, task: int, previous: list[int]) -> list[int]:
        """Return the previous tasks whose frozen knowledge says more of `task` than it can learn alone.

        Numbers of right answers are compared, not quotients: few examples make many ties, which rounding would break.
        """
        right = [self.reference_right(strategy, task), *self.readouts_right(strategy, task, previous).tolist()]
        reference, *readouts = distributed.broadcast(right)  # all processes must come to the same tasks
        return [k for k, right in zip(previous, readouts, strict=True) if right > reference]

    def reference_right(self, strategy: Strategy, task: int) -> int:
        """Return how many of the validation data a model trained on `task` alone gets right."""
        train, valid, _ = self.data
        model = copied(self.initial)
        alone = ContinualStrategy(
            model=model,
            optimizer=template_for(model, strategy.model, getattr(strategy, "_template", strategy.optimizer)),
            criterion=criterion_of(strategy),
            train_mb_size=strategy.train_mb_size,
            train_epochs=strategy.train_epochs,
            eval_mb_size=strategy.eval_mb_size,
            device=strategy.device,
            plugins=[TrainsOn(train)],
            evaluator=None,
            **(strategy.engine_settings() if isinstance(strategy, ContinualStrategy) else {}),
        )
        alone.train(strategy.experience, eval_streams=[])
        alone.model.eval()
        with torch.no_grad():
            right = [(logits_of(alone, x, task).argmax(1) == y).sum() for _, x, y in batches(valid, strategy)]
        return int(sum(right))

    def readouts_right(self, strategy: Strategy, task: int, previous: list[int]) -> Tensor:
        """Return how many of the validation data the readouts under t previous tasks' masks get right, (t,)."""
        train, valid, _ = self.data
        features, targets = self.masked_features(train, strategy, previous)
        weight, bias = train_readouts(
            features,
            targets,
            self.model.transfers.classes[task],
            steps=self.options.readout_steps,
            learning_rate=self.options.readout_learning_rate,
        )
        features, targets = self.masked_features(valid, strategy, previous)
        return (readout_logits(features, weight, bias).argmax(-1) == targets).sum(dim=1)

    @torch.no_grad()
    def masked_features(self, data: TaskData, strategy: Strategy, tasks: list[int]) -> tuple[Tensor, Tensor]:
        """Return features (N, n, F) under the stored masks of n tasks, without dropout, and targets (N,)."""
        features = torch.empty(len(data), len(tasks), self.backbone.width, device=strategy.device)
        targets = torch.empty(len(data), dtype=torch.long, device=strategy.device)
        with mode(self.model, training=False), autocast(strategy):
            for rows, x, y in batches(data, strategy):
                features[rows] = self.model.views(x, tasks).transpose(0, 1)
                targets[rows] = y
        return features, targets

    @torch.no_grad()
    def validation_accuracies(self, strategy: Strategy, task: int) -> list[float]:
        """Return the validation accuracies of a trained task's own head, and of its transfer."""
        valid = self.data[1]
        right = torch.zeros(2, device=strategy.device)
        with mode(self.model, training=False), autocast(strategy):
            for _, x, y in batches(valid, strategy):
                right += (torch.stack(self.model.both(x, task)).argmax(-1) == y).sum(dim=1)
        return [n / len(valid) for n in distributed.broadcast(right.long().tolist())]


def copied(model: ContinualModel) -> ContinualModel:
    """Copy a model but for the parameters that do not train, which the copy shares."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


@register_strategy(
    "cat",
    title="masks against dissimilar tasks, attention to similar ones",
    paper="Ke, Liu, Huang: Continual Learning of a Mixed Sequence of Similar and Dissimilar Tasks, NeurIPS 2020",
    url="https://arxiv.org/abs/2112.10017",
    presets=MASK_PRESETS,
    ddp=True,
)
class CAT(MaskInference):
    """Masks and transfer; its model is a `TransferModel` around the backbone and the heads of the one passed in."""

    plugin_type = CATPlugin
    options: CATOptions
    masks: CATPlugin

    def make_model(self, model: nn.Module) -> TransferModel:
        return TransferModel(continual_model(model, type(self).__name__), self.options.attention_heads)

    def validation_criterion(self, x: Tensor, y: Tensor, task_labels: Tensor | int) -> Tensor:
        """Return the loss of the task's own head and, where it has one, w times that of its attention head."""
        task = self.masks.gates.current
        if task is None or not self.masks.model.transfers.similar[task]:
            return super().validation_criterion(x, y, task_labels)
        with autocast(self):
            own, transferred = self.masks.model.both(x, task)
        return self._criterion(own, y) + self.options.model_weight * self._criterion(transferred, y)
