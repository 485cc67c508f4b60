"""ACL: adversarial continual learning (Ebrahimi et al., ECCV 2020, https://arxiv.org/abs/2003.09553).

A shared encoder S learns features from which a discriminator D cannot tell the task, and a private encoder P_t what is
left of task t; heads read both. S is replayed; what is private cannot be forgotten.

    L = CE(head([P(x), S(x)]), y) + l1 CE(D(reverse(S(x))), t + 1) + l2 mean_{b,c} cos(S(x_b), P(x_c))^2
    L_D = CE(D(S(x)), t + 1) + CE(D(z), 0),  z ~ N(0, 1)

`reverse` turns the gradient round, t = 0, 1, ... is the task of an example, and all means go over the mini-batch and a
draw from the memory together. Every mini-batch serves five steps on L and then one on L_D; D is new for each task. P_t
is a net of the backbone's shape with weights of its own, and the product of all pairs of S and P asks for features of
the same width; `private_width` makes its inner layer smaller.

In task-incremental learning P_t and head t rest after their task, so the private features of a replayed example never
change: they are kept with it instead of being computed at every step. In domain-incremental learning, where no label
chooses at test, the last private encoder serves all and sees replayed examples, too.

Where it differs from the original code. There replayed examples passed the current private encoder but their own head,
which at test stood on its own private encoder. Heads have one layer, as for all methods here, instead of three of
2048 units. D is trained by the strategy's kind of optimizer, with its schedule and clipping, on the shared features of
the step before; the norms in the cosines are part of the graph. `parity=True` restores a memory filled in file order
and replayed whole, and what `ContinualStrategy` lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from nlpcl.models.base import Backbone, ContinualModel, Site, TaskLabels
from nlpcl.models.device import to_device
from nlpcl.models.heads import SharedHead, TaskHeads
from nlpcl.models.sizes import PerTask, tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Count, Rate, Weight, Width
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.replay import FeaturesPlugin, ReplayOptions, joint_mean
from nlpcl.training.forward import autocast, mode
from nlpcl.training.optimizers import new_optimizer
from nlpcl.training.plugin import Strategy
from nlpcl.training.strategy import ContinualStrategy


def reverse_gradient(x: Tensor) -> Tensor:
    """x, whose gradient is turned round (Ganin and Lempitsky 2015)."""
    return 2 * x.detach() - x


def unit(x: Tensor) -> Tensor:
    """Rows of x (B, F) at length 1; one of zeros, all of whose units are off, stays and has a finite gradient."""
    norm: Tensor = x.norm(dim=1, keepdim=True)
    return x / norm.where(norm > 0, 1.0)


def overlap(shared: Tensor, private: Tensor) -> Tensor:
    """mean_{b,c} (<S_b, P_c> / (|S_b| |P_c|))^2 over all pairs of rows of S and P, both (B, F); in [0, 1]."""
    return (unit(shared) @ unit(private).T).square().mean()


def draw_anew(module: nn.Module) -> None:
    """Give every layer inside fresh random weights."""
    for layer in module.modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()


def fresh_copy(backbone: Backbone, inner: int | None = None) -> Backbone:
    """A net of the same shape with weights of its own.

    :param inner: width of the first of the backbone's two fully connected layers; None: the backbone's.
    """
    copy = deepcopy(backbone)
    if inner is not None:
        first, second = cast(Iterable[nn.Linear], copy.linears)
        narrow = [nn.Linear(first.in_features, inner), nn.Linear(inner, second.out_features)]
        copy.linears = nn.ModuleList(narrow)
    draw_anew(copy)
    return copy


def discriminator(width: int, outputs: int) -> nn.Sequential:
    """Make a net that tells which task a shared feature comes from: logits (B, outputs) of features (B, width).

    One hidden layer with a LeakyReLU and a second without, as in the paper's code.
    """
    return nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.Linear(width, outputs))


class PrivateEncoders(PerTask):
    """The private encoders: one for each task if task labels choose them, else one that each task starts afresh."""

    kind = "private"

    def __init__(self, shared: Backbone, tasks: int, inner: int | None) -> None:
        super().__init__()
        self.nets = nn.ModuleList(fresh_copy(shared, inner) for _ in range(tasks))

    def begin(self, task: int) -> None:
        """From now on only the encoder of `task` trains."""
        if len(self.nets) == 1 and task > 0:
            draw_anew(self.nets[0])
        for i, net in enumerate(self.nets):
            net.requires_grad_(i == min(task, len(self.nets) - 1))

    def of(self, task: int) -> Backbone:
        """The encoder that serves `task`."""
        return cast(Backbone, self.nets[task if len(self.nets) > 1 else 0])

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        """Private features (B, F); samples of several tasks pass the encoders of those tasks only."""
        if isinstance(task_labels, int) or len(self.nets) == 1:
            return self.of(task_labels if isinstance(task_labels, int) else 0).features(x, 0)
        tasks: list[int] = task_labels.unique().tolist()
        rows = [(task_labels == task).nonzero().squeeze(1) for task in tasks]
        found = [self.of(task).features(x[at], task) for task, at in zip(tasks, rows, strict=True)]
        return torch.cat(found)[torch.cat(rows).argsort()]

    def bytes_for(self, tasks: int) -> int:
        """Bytes of the encoders of the first `tasks` tasks."""
        return tensor_bytes(p for net in self.nets[:tasks] for p in net.parameters())


class SharedPrivate(Backbone):
    """Features [P(x), S(x)] of a private and a shared encoder, (B, 2F).

    :param shared: S, with features of width F.
    :param tasks: number of private encoders: that of tasks, or 1 if no task label chooses.
    :param inner: as in `fresh_copy`.
    """

    def __init__(self, shared: Backbone, tasks: int, inner: int | None = None) -> None:
        super().__init__()
        self.shared = shared
        self.private = PrivateEncoders(shared, tasks, inner)
        self.width = 2 * shared.width
        self.context = shared.context

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        return torch.cat([self.private.features(x, task_labels), self.shared.features(x, task_labels)], dim=1)

    def sites(self) -> list[Site]:
        return self.shared.sites()


class Repeated:
    """A loader that gives each batch of another several times in a row."""

    def __init__(self, loader: Any, times: int) -> None:
        self.loader = loader
        self.times = times

    def __len__(self) -> int:
        return len(self.loader) * self.times

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in self.loader:
            for _ in range(self.times):
                yield list(batch)  # a strategy puts the copies on the device into the list


def encode(strategy: Strategy, encoder: Backbone, x: Tensor, task: Any) -> Tensor:
    """Return features of an encoder under the strategy's precision, in float32."""
    with autocast(strategy):
        return encoder.features(x, task).float()


class ACLOptions(ReplayOptions):
    """The options of ACL."""

    adversarial: Weight = option(0.05, "weight l1 of the discriminator's loss; 0.05 in the original toolkit")
    orthogonality: Weight = option(
        0.1, "weight l2 of the overlap of shared and private features; 0.1 in the original toolkit"
    )
    shared_steps: Count = option(5, "steps on a mini-batch before one of the discriminator; 5 in the original toolkit")
    discriminator_learning_rate: Rate = option(
        0.001, "learning rate of the discriminator, which follows the schedule; 0.001 in the original toolkit"
    )
    private_width: Width | None = option(
        None,
        "width of a private encoder's inner fully connected layer; None means the backbone's, as in the original "
        "toolkit",
    )


class ACLPlugin(FeaturesPlugin[ACLOptions]):
    """Splits a model's backbone into a shared and private ones and trains them against a discriminator.

    :param model: its backbone becomes the shared encoder, its heads get twice the width.
    """

    task_state = ("discriminator", "_optimizer", "_real", "_steps")

    def __init__(self, model: ContinualModel, options: ACLOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.task_incremental = model.task_incremental
        self.model = model
        self.half = model.backbone.width
        private = model.n_tasks if self.task_incremental else 1
        self.backbone = SharedPrivate(model.backbone, private, self.options.private_width)
        model.backbone = self.backbone
        model.heads = wider_heads(model.heads, self.backbone.width)
        self.discriminator: nn.Sequential
        self._optimizer: Optimizer
        self._real: tuple[Tensor, Tensor]
        self._steps = 0

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        task = strategy.experience.current_experience
        self.backbone.private.begin(task)
        if self.task_incremental:
            for i, linear in enumerate(cast(TaskHeads, self.model.heads).linears):
                linear.requires_grad_(i == task)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.dataloader = Repeated(strategy.dataloader, self.options.shared_steps)
        self._steps = 0
        tasks = strategy.experience.current_experience + 1
        self.discriminator = discriminator(self.half, tasks + 1).to(strategy.device)
        self._optimizer = new_optimizer(strategy.optimizer, self.discriminator, [])
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.discriminator_learning_rate
        self.discriminator.requires_grad_(False)  # but in its own steps

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        assert self.features is not None
        private, shared = self.features.split(self.half, dim=1)
        tasks = torch.full_like(strategy.mb_y, strategy.experience.current_experience)
        if len(self.memory):
            loss, more_private, more_shared, more_tasks = self.replay_loss(strategy)
            strategy.loss = joint_mean(strategy.loss, loss, len(shared), len(more_shared))
            private, shared = torch.cat([private, more_private]), torch.cat([shared, more_shared])
            tasks = torch.cat([tasks, more_tasks])
        fooled = F.cross_entropy(self.discriminator(reverse_gradient(shared)), tasks + 1)
        common = overlap(shared, private)
        strategy.loss = strategy.loss + self.options.adversarial * fooled + self.options.orthogonality * common
        self._real = shared.detach(), tasks + 1

    def replay_loss(self, strategy: Strategy) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return cross-entropy, private and shared features (M, F) and tasks (M,) of a draw from the memory."""
        slots = self.memory.indices(self.options.replay_batch_size)
        replayed = self.memory.at(slots).on_device(strategy)
        labels = replayed.task_labels
        there = labels if isinstance(labels, int) else to_device(labels, strategy.device)
        kept = self.memory.columns.get("private")
        if kept is None:
            private, shared = encode(strategy, self.backbone, replayed.x, there).split(self.half, dim=1)
        else:
            private = to_device(kept[slots], strategy.device)
            shared = encode(strategy, self.backbone.shared, replayed.x, there)
        logits = self.model.heads(torch.cat([private, shared], dim=1), labels)
        tasks = to_device(self.memory.tasks[slots], strategy.device)
        return F.cross_entropy(logits, replayed.y), private, shared, tasks

    def after_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        self._steps += 1
        if self._steps % self.options.shared_steps == 0:
            self.train_discriminator(strategy)

    def train_discriminator(self, strategy: Strategy) -> None:
        """Take one step on L_D, clipped and at a rate that follows the schedule as the strategy's steps do."""
        shared, tasks = self._real
        self.discriminator.requires_grad_(True)
        loss = F.cross_entropy(self.discriminator(shared), tasks)
        noise = F.cross_entropy(self.discriminator(torch.randn_like(shared)), torch.zeros_like(tasks))
        self._optimizer.zero_grad()
        (loss + noise).backward()
        if isinstance(strategy, ContinualStrategy):
            strategy.clip_gradients(list(self.discriminator.parameters()))
            for group in self._optimizer.param_groups:
                rate = self.options.discriminator_learning_rate
                group["lr"] = rate * strategy.schedule_factor(self._steps - 1)
        self._optimizer.step()
        self.discriminator.requires_grad_(False)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        slots = self.fill(strategy)
        if not self.task_incremental or not len(slots):
            return
        task = strategy.experience.current_experience
        encoder = self.backbone.private.of(task)
        with mode(encoder, training=False), torch.no_grad():
            for part in slots.split(strategy.train_mb_size):
                x = self.memory.at(part).on_device(strategy).x
                self.memory.keep("private", part, encode(strategy, encoder, x, task))

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the memory's filled slots, and of private features, which may be none."""
        return {"memory_private": 0, **super().kept_bytes()}


def wider_heads(heads: TaskHeads | SharedHead, width: int) -> TaskHeads | SharedHead:
    """Make fresh heads of the same kind and classes for features of another width."""
    if isinstance(heads, TaskHeads):
        return TaskHeads(width, heads.classes.tolist())
    shared: Any = heads.linear
    return SharedHead(width, shared.out_features, heads.n_tasks)


@register_strategy(
    "acl",
    title="adversarial continual learning",
    paper="Ebrahimi, Meier, Calandra, Darrell, Rohrbach: Adversarial Continual Learning, ECCV 2020",
    url="https://arxiv.org/abs/2003.09553",
    backbones=("cnn", "mlp"),
    replay=True,
    ddp_reason="its discriminator takes steps of its own on the features of the whole mini-batch",
)
class ACL(ContinualStrategy):
    """Adversarial continual learning."""

    plugin_type = ACLPlugin
