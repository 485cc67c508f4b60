"""The quadratic penalty that EWC and L2 share, with the terms of all tasks merged into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nlpcl.models.base import ContinualModel
from nlpcl.models.heads import TaskHeads
from nlpcl.models.sizes import tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Weight
from nlpcl.training.internals import differences, products
from nlpcl.training.plugin import Plugin, Strategy
from nlpcl.training.strategy import StrategyOptions


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class _Penalty(torch.autograd.Function):
    """sum F (theta - mu)^2 over lists of tensors; its gradient, 2 F (theta - mu), is half computed on the way."""

    @staticmethod
    def forward(ctx: Any, importance: list[Any], anchors: list[Tensor], *parameters: Tensor) -> Tensor:
        gaps = differences(parameters, anchors)
        ctx.pulls = products(gaps, importance)
        return torch.stack([torch.dot(p.flatten(), g.flatten()) for p, g in zip(ctx.pulls, gaps, strict=True)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *products(ctx.pulls, 2 * grad)


class MergedQuadratic:
    """`sum_k sum_j F_{k,j} (theta_j - theta_{k,j}*)^2` up to a constant, as one term whatever the number of tasks k.

    `sum_k F_k (theta - theta_k*)^2 = F (theta - mu)^2 + constant` with F = sum_k F_k and, where F > 0,
    mu = sum_k F_k theta_k* / F. Both are kept by parameter name; mu is kept as such, a running weighted mean, so that a
    step need not divide.
    """

    state = ("importance", "anchors")

    def __init__(self) -> None:
        self.importance: dict[str, Tensor | float] = {}
        self.anchors: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, importance: Mapping[str, Tensor | float], parameters: Mapping[str, Tensor]) -> None:
        """Add a task's term; mu <- mu + F_k / F (theta_k* - mu). Parameters without an importance get no term.

        :param importance: F_k >= 0 by parameter name: of the parameter's shape, or one number for all its entries; for
            all parameters and tasks the same of the two.
        :param parameters: theta_k* by name.
        """
        for name, weight in importance.items():
            now = parameters[name].detach()
            total = self.importance.get(name, 0.0) + weight
            share = weight / total
            if isinstance(share, Tensor):
                share = share.nan_to_num(0.0)  # 0 / 0: no task needs the entry
            self.anchors[name] = torch.lerp(self.anchors.get(name, torch.zeros_like(now)), now, share)
            self.importance[name] = total

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """sum F (theta - mu)^2 over the parameters that have both, a scalar; it can be differentiated once.

        :param parameters: theta by name.
        """
        names = [name for name in self.anchors if name in parameters]
        if not names:
            return torch.zeros(())
        importance, anchors = [self.importance[n] for n in names], [self.anchors[n] for n in names]
        penalty: Tensor = _Penalty.apply(importance, anchors, *[parameters[n] for n in names])
        return penalty


class QuadraticOptions(StrategyOptions):
    """The options of a method with a quadratic penalty."""

    lamb: Weight = option(0.5, "weight lambda of the penalty; 0 leaves the loss and every gradient alone")


QuadraticOptionsT = TypeVar("QuadraticOptionsT", bound=QuadraticOptions)


class QuadraticPlugin(Plugin[QuadraticOptionsT]):
    """Adds share * lambda * sum F (theta - mu)^2 to the loss from the second task on; methods fill `quadratic`.

    Heads of other tasks are left out of the sum, except with `parity`: they are where their anchors are, and with a
    gradient, if only of 0, weight decay would move them.
    """

    state = ("quadratic",)
    share: ClassVar[float] = 1.0
    """What the method's equation multiplies lambda with."""

    def __init__(self, options: QuadraticOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.quadratic = MergedQuadratic()

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        factor = self.share * self.options.lamb
        if factor and self.quadratic.anchors:
            strategy.loss = strategy.loss + factor * self.quadratic.penalty(self.held(strategy))

    def held(self, strategy: Strategy) -> dict[str, nn.Parameter]:
        """Return the parameters in the sum while an experience trains, by name."""
        model, tasks = strategy.model, strategy.experience.task_labels
        others: set[int] = set()
        if isinstance(model, ContinualModel) and isinstance(model.heads, TaskHeads) and not self.options.parity:
            others = {id(p) for k, head in enumerate(model.heads.linears) if k not in tasks for p in head.parameters()}
        return {name: p for name, p in trainable(model).items() if id(p) not in others}

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of F (none where it is one number) and of mu."""
        importance = [f for f in self.quadratic.importance.values() if isinstance(f, Tensor)]
        return {"importance": tensor_bytes(importance), "anchors": tensor_bytes(self.quadratic.anchors.values())}
