"""Shared and private encoders and their discriminator (Ebrahimi et al., ECCV 2020, https://arxiv.org/abs/2003.09553)."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from nlpcl.models.base import Backbone, Site, TaskLabels
from nlpcl.models.sizes import PerTask, tensor_bytes


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


class Discriminator(nn.Module):
    """Tells which task a shared feature comes from: logits (B, outputs) of features (B, width).

    One hidden layer with a LeakyReLU and a second without, as in the paper's code.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.Linear(width, outputs)
        )

    def forward(self, features: Tensor) -> Tensor:
        private: Tensor = self.layers(features)
        return private


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
        net = self.nets[task if len(self.nets) > 1 else 0]
        assert isinstance(net, Backbone)
        return net

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
