"""HAL: hindsight anchor learning (Chaudhry et al., AAAI 2021, https://arxiv.org/abs/2002.08165).

Each task leaves an anchor for each of its classes, an input at which forgetting would show. Later steps are chosen so
that a step on the new task would change the outputs at the anchors little.

    theta~ = theta - a grad CE(theta),   L = CE(theta) + lambda mean_k (f_theta~(e_k) - f_theta(e_k))^2
    phi_c <- beta phi_c + (1 - beta) mean of the features of class c in the mini-batch
    e_c = argmin_e CE(f_theta(e), c) - CE(f_theta_M(e), c) + gamma ||h_theta(e) - phi_c||^2

CE is the mean over the mini-batch and a draw from the memory together, f gives the logits of an anchor's own head, h
the features. The mean over k is one over all anchors of past tasks and all their own logits. theta_M is a copy of the
weights after one pass of SGD over the memory of past tasks; after the first task there is none, theta_M = theta, and
what is left brings an anchor's features to its class's mean. All anchors of a task are learnt together.

a is a rate for SGD, whatever optimizer trains: at that of one such as AdamW, which is far lower, a step changes next to
nothing at the anchors, and the term is lost.

Anchors live where gradients can move inputs (`Backbone.embed`): images in pixel space, starting from U(0, 1); texts
among the word embeddings or, if the encoder is frozen as a whole, its last hidden states. A text anchor has a fixed
number of positions, all real, and starts from a random training example of its class, whose tokens are repeated until
the positions are full: noise would lie far from all that the encoder knows.

Where it differs from the original toolkit. There no anchors were made after the first task, all classes shared one
phi, replayed examples and anchors had the current head, and the memory was a reservoir: here each task has an equal
part of it. There f_theta~(e) was a constant, so that its term pulled the outputs at the anchors to where the step would
move them and doubled what it should prevent; here, as in the paper's nested optimisation, theta~ depends on theta.
`second_order=False` takes only its gradient as constant. At the anchors dropout is off, whose noise would hide the
difference. `parity=True` restores a memory filled in file order and replayed whole, and what `ContinualStrategy` lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from nlpcl.errors import UsageError
from nlpcl.models.base import ContinualModel, TaskLabels, single_task
from nlpcl.models.device import to_device
from nlpcl.models.heads import ABSENT
from nlpcl.models.sizes import tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import CountOrNone, Length, NotAll, Rate, Weight
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.quadratic import trainable
from nlpcl.strategies._shared.replay import FeaturesPlugin, ReplayOptions, joint_mean, loss_scale, virtual_step
from nlpcl.training.forward import logits_of, mode, on_device
from nlpcl.training.plugin import Strategy, TaskData
from nlpcl.training.strategy import ContinualStrategy

_Weights = Mapping[str, Tensor]


def running_means(means: Tensor, seen: Tensor, features: Tensor, y: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Update phi_c <- beta phi_c + (1 - beta) mean of the features of class c, where there are any.

    The first mean of a class is its phi.

    :param means: phi, (C, F).
    :param seen: (C,), whether the class has a mean.
    :param features: (B, F).
    :param y: classes, LongTensor (B,).
    """
    members = (y == torch.arange(len(means), device=y.device).unsqueeze(1)).to(features.dtype)
    present = members.any(dim=1)
    batch = members @ features / members.sum(dim=1, keepdim=True).clamp(min=1)
    keep = torch.where(seen, beta, 0.0).unsqueeze(1)
    return torch.where(present.unsqueeze(1), keep * means + (1 - keep) * batch, means), seen | present


def anchor_objective(
    logits: Tensor, forgotten: Tensor, features: Tensor, classes: Tensor, means: Tensor, gamma: float
) -> Tensor:
    """Return what anchors minimise (Chaudhry et al. 2021, section 3), summed over n anchors, which do not interact.

    :param logits: of theta, (n, C).
    :param forgotten: of theta_M, (n, C).
    :param features: of theta, (n, F).
    :param classes: LongTensor (n,).
    :param means: each anchor's phi, (n, F).
    """
    learnt, lost = (F.cross_entropy(values, classes, reduction="sum") for values in (logits, forgotten))
    return learnt - lost + gamma * (features - means).square().sum()


def first_anchors(embedded: Tensor, mask: Tensor | None, length: int, generator: torch.Generator) -> Tensor:
    """Return where anchors start: at U(0, 1) for images, at an example's tokens over and over for texts.

    :param embedded: one example for each anchor, (n, ...), as `Backbone.embed` gives it.
    :param mask: (n, L), True on the leading real tokens; None means images.
    :param length: positions of a text anchor.
    """
    if mask is None:
        return torch.rand(embedded.shape, generator=generator).to(embedded.device)
    positions = torch.arange(length, device=mask.device) % mask.sum(dim=1, keepdim=True).clamp(min=1)
    return embedded.gather(1, positions.unsqueeze(-1).expand(-1, -1, embedded.shape[-1]))


class FromEmbedded(nn.Module):
    """Gives logits and features of embedded inputs; a module, so that it can be called with other weights."""

    def __init__(self, model: ContinualModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> tuple[Tensor, Tensor]:
        """Return logits and features as `ContinualModel` has them; task labels are on the host."""
        task = single_task(task_labels)
        labels = task if isinstance(task, int) else to_device(task, embedded.device)
        features = self.model.backbone.features_of(embedded, mask, labels)
        return self.model.heads(features, task), features


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode for a while; gradients still flow."""
    with mode(model, training=False):
        for module in model.modules():
            if isinstance(module, nn.RNNBase):  # on an accelerator it has no gradient in evaluation mode
                module.train()
        yield


class HALOptions(ReplayOptions):
    """The options of HAL."""

    lamb: Weight = option(0.1, "weight of the change at the anchors; 0.1 in the original toolkit")
    beta: NotAll = option(0.5, "weight of the past in the running means of features; 0.5 in the original toolkit")
    gamma: Weight = option(0.1, "weight of an anchor's distance to its class's mean; 0.1 in the original toolkit")
    anchor_steps: CountOrNone = option(100, "steps of SGD on an anchor; 100 in the original toolkit")
    anchor_learning_rate: Rate = option(0.05, "learning rate of the steps on an anchor; 0.05 in the original toolkit")
    anchor_length: Length = option(16, "positions of a text anchor; chosen here")
    virtual_learning_rate: Rate = option(
        0.05,
        "learning rate of the steps of SGD that are only imagined; 0.05 in the original toolkit, which trains with SGD "
        "at that rate",
    )
    second_order: bool = option(
        True,
        "whether the imagined step's gradient counts as depending on the weights; off for layers without a second "
        "derivative",
    )


class HALPlugin(FeaturesPlugin[HALOptions]):
    """Replays, holds the outputs at the anchors, and learns a task's anchors at its end.

    :param model: the model that is trained.
    :raises UsageError: `anchor_length` is more than the encoder takes.
    """

    state = ("anchors", "anchor_heads", "_text")
    task_state = ("means", "seen")

    def __init__(self, model: ContinualModel, options: HALOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        most = model.backbone.positions
        if most is not None and self.options.anchor_length > most:
            raise UsageError(f"anchor_length must be at most {most}, as many tokens as the encoder takes.")
        model.backbone.check_embedded()
        self.memory.quota = max(1, self.memory.capacity // model.n_tasks)
        self.net = FromEmbedded(model)
        if self.options.second_order:
            model.backbone.allow_second_derivatives()
        self.anchors: Tensor | None = None
        """Anchors of all past tasks, (n, ...)."""
        self.anchor_heads = torch.empty(0, dtype=torch.long)
        """The task label of each, on the host."""
        self._text = False
        self.weights: dict[str, nn.Parameter] = {}
        self.means = self.seen = torch.empty(0)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.weights = trainable(strategy.model)
        classes = max(int(y) for y in strategy.experience.dataset.targets) + 1
        self.means = torch.zeros(classes, self.net.model.backbone.width, device=strategy.device)
        self.seen = torch.zeros(classes, dtype=torch.bool, device=strategy.device)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_forward(strategy)
        assert self.features is not None
        features, beta = self.features.detach(), self.options.beta
        self.means, self.seen = running_means(self.means, self.seen, features, strategy.mb_y, beta)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.anchors is None:
            return
        replayed = self.memory.draw(self.options.replay_batch_size).on_device(strategy)
        loss = F.cross_entropy(logits_of(strategy, replayed.x, replayed.task_labels), replayed.y)
        strategy.loss = joint_mean(strategy.loss, loss, len(strategy.mb_y), len(replayed.y))
        strategy.loss = strategy.loss + self.options.lamb * self.anchor_loss(strategy)

    def anchor_loss(self, strategy: Strategy) -> Tensor:
        """Return the mean square of what one step on the strategy's loss would change at the anchors."""
        assert self.anchors is not None
        scale = loss_scale(strategy)
        gradients = torch.autograd.grad(
            strategy.loss * scale,
            list(self.weights.values()),
            retain_graph=True,
            create_graph=self.options.second_order,
            allow_unused=True,
        )
        moved = virtual_step(self.weights, gradients, self.options.virtual_learning_rate / scale)
        with without_dropout(strategy.model):
            now = self.outputs(self.weights, self.anchors, self.anchor_heads)[0]
            then = self.outputs(moved, self.anchors, self.anchor_heads)[0]
        # Columns that an anchor's head has not are equal in both.
        change = (then - now).square().sum() / (now > ABSENT).sum()
        # Where the scaled gradient overflows, that of the whole loss does, too, and the scaler leaves the step out.
        return torch.where(change.isfinite(), change, 0.0) if isinstance(scale, Tensor) else change

    def outputs(self, weights: _Weights, anchors: Tensor, task_labels: TaskLabels) -> tuple[Tensor, Tensor]:
        """Return logits and features of anchors under `weights`.

        They are in float32 whatever the precision: what one step changes is less than bfloat16 can tell apart.
        """
        mask = anchors.new_ones(anchors.shape[:2], dtype=torch.bool) if self._text else None
        named = {f"model.{name}": p for name, p in weights.items()}
        features_and_logits: tuple[Tensor, Tensor] = functional_call(self.net, named, (anchors, mask, task_labels))
        return features_and_logits

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.learn_anchors(strategy)
        self.fill(strategy)

    def learn_anchors(self, strategy: Strategy) -> None:
        """Learn an anchor for each class of the experience and add them to those of past tasks."""
        x, classes, task = self._example_of_each_class(strategy.experience.dataset)
        classes, options = classes.to(strategy.device), self.options
        weights = {name: p.detach() for name, p in self.weights.items()}
        with without_dropout(strategy.model):
            with torch.no_grad():
                embedded, mask = self.net.model.backbone.embed(on_device(strategy, x))
            if not embedded.is_floating_point():
                raise UsageError(f"hal needs a backbone that embeds, not {type(strategy.model.backbone).__name__}.")
            self._text = mask is not None
            anchors = first_anchors(embedded, mask, options.anchor_length, self.memory.generator)
            forgetful = self.fine_tuned(strategy, weights)
            for _ in range(options.anchor_steps):
                anchors.requires_grad_()
                logits, features = self.outputs(weights, anchors, task)
                lost = logits if forgetful is None else self.outputs(forgetful, anchors, task)[0]
                objective = anchor_objective(logits, lost, features, classes, self.means[classes], options.gamma)
                slope = torch.autograd.grad(objective, anchors)[0]
                anchors = (anchors - options.anchor_learning_rate * slope).detach()
        self.anchors = anchors if self.anchors is None else torch.cat([self.anchors, anchors])
        self.anchor_heads = torch.cat([self.anchor_heads, torch.full((len(anchors),), task)])

    def fine_tuned(self, strategy: Strategy, weights: _Weights) -> _Weights | None:
        """Return theta_M, `weights` after one pass of SGD over the memory, or None if the memory is empty."""
        if not len(self.memory):
            return None
        for slots in self.memory.indices(len(self.memory)).split(self.options.replay_batch_size):
            replayed = self.memory.at(slots).on_device(strategy)
            weights = {name: p.detach().requires_grad_() for name, p in weights.items()}
            logits = functional_call(strategy.model, dict(weights), (replayed.x, replayed.task_labels))
            loss = F.cross_entropy(logits, replayed.y)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            weights = virtual_step(weights, gradients, self.options.virtual_learning_rate)
        return {name: p.detach() for name, p in weights.items()}

    def kept_bytes(self) -> dict[str, int]:
        anchors = [] if self.anchors is None else [self.anchors, self.anchor_heads]
        return super().kept_bytes() | {"hindsight": tensor_bytes(anchors)}

    def _example_of_each_class(self, data: TaskData) -> tuple[Tensor, Tensor, int]:
        """Draw an example (n, ...) of each class of a task; with the classes (n,), ascending, and the task label."""
        targets = torch.tensor([int(y) for y in data.targets])
        classes = targets.unique()
        order = torch.randperm(len(targets), generator=self.memory.generator)
        mixed = targets[order]
        examples = [data[int(order[mixed == c][0])] for c in classes]
        return torch.stack([example[0] for example in examples]), classes, int(examples[0][-1])


@register_strategy(
    "hal",
    title="hindsight anchor learning",
    paper="Chaudhry, Gordo, Dokania, Torr, Lopez-Paz: Using Hindsight to Anchor Past Knowledge in Continual Learning, "
    "AAAI 2021",
    url="https://arxiv.org/abs/2002.08165",
    replay=True,
    ddp_reason="it differentiates through a step on the whole mini-batch, whose gradient no process has by itself",
)
class HAL(ContinualStrategy):
    """Hindsight anchor learning."""

    plugin_type = HALPlugin
