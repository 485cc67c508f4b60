"""The private names of Avalanche and torch that this package depends on; a test fails when an upgrade removes one.

Datasets and modules are read through the functions below. Classes that extend one of Avalanche's or torch's may
override and call the methods and attributes in `INHERITED`, and nothing else that is private there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, EmptyTransformGroups, FlatData
from torch import Tensor, nn
from torch import distributed as dist

from nlpcl.training.plugin import Experience, Strategy

INHERITED = {
    "avalanche.training.templates.SupervisedTemplate": (
        *("_criterion", "_stop_training", "_train_exp", "_train_cleanup", "_eval_cleanup", "_unpack_minibatch"),
        *("_after_training", "_before_training_exp", "_before_training_epoch", "_after_training_epoch"),
        *("_before_forward", "_before_backward", "_after_training_iteration"),
    ),
    "avalanche.training.JointTraining": ("_experiences",),
    "avalanche.training.plugins.CoPEPlugin": ("_init_new_prototypes", "_update_prototypes"),
    "avalanche.evaluation.GenericPluginMetric": ("_metric",),
    "torch.nn.Conv1d": ("_conv_forward",),
    "torch.nn.Conv2d": ("_conv_forward",),
}
COMPILER_ERRORS = ("torch._dynamo.exc", "torch._inductor.exc")
"""Modules whose exceptions say that `torch.compile` failed."""

Criterion = Callable[[Tensor, Tensor], Tensor]
Tensors = list[Tensor] | tuple[Tensor, ...]


def criterion_of(strategy: Strategy) -> Criterion:
    """Return the loss of logits (B, C) and labels (B,) that a strategy was made with."""
    return strategy._criterion


def set_criterion(strategy: Strategy, criterion: Criterion) -> None:
    """Give a strategy another loss of logits and labels."""
    strategy._criterion = criterion


def experiences_of(strategy: Strategy) -> list[Experience]:
    """Return the experiences whose data train together: all of a joint training, else the one in training."""
    return getattr(strategy, "_experiences", None) or [strategy.experience]


def attributes_of(data: AvalancheDataset[Any]) -> dict[str, DataAttribute[Any]]:
    """Return a dataset's attributes by name, in the order in which examples end with them."""
    return data._data_attributes


def flat_data(data: AvalancheDataset[Any]) -> FlatData[Any]:
    """Return what a dataset takes its examples from, without its attributes; see `concatenation`."""
    return data._flat_data


def concatenation(data: object) -> tuple[list[Any], list[int], Sequence[int] | None]:
    """Return what `flat_data`, or a part of it, is made of: datasets one after another, of which some are chosen.

    :return: the datasets, for each the number of examples up to its end, and the chosen positions in the concatenation
        in the order of the examples, or None if all are.
    :raises TypeError: it makes its examples one by one.
    """
    for transforms in ("_transform_groups", "_frozen_transform_groups"):
        if not isinstance(getattr(data, transforms, None), EmptyTransformGroups):
            raise TypeError(f"examples of a {type(data).__name__} are made one by one")
    flat = cast(FlatData[Any], data)
    return flat._datasets, flat._cumulative_sizes, flat._indices


def version_of(tensor: Tensor) -> int:
    """Return a number that grows whenever a tensor is written in place."""
    return tensor._version


def differences(tensors: Tensors, others: Tensors) -> tuple[Tensor, ...]:
    """Return `tensor - other` for each pair, on a GPU in one kernel for all of them."""
    return torch._foreach_sub(tensors, others)


def products(tensors: Tensors, factors: Tensors | Tensor) -> tuple[Tensor, ...]:
    """Return `tensor * factor` for each pair, or with one factor for all, on a GPU in one kernel for all of them."""
    return torch._foreach_mul(tensors, factors)


def parts_of(module: nn.Module) -> dict[str, nn.Module | Tensor]:
    """Return the layers, parameters and persistent buffers that stand right in a module, by name."""
    buffers = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
    parts = {**module._parameters, **buffers, **module._modules}
    return {name: part for name, part in parts.items() if part is not None}


def empty_buffers(module: nn.Module) -> set[str]:
    """Return the names of the buffers that hold nothing yet."""
    return {name for name, buffer in module._buffers.items() if buffer is None}


def set_timeout(timeout: timedelta) -> None:
    """Set how long the group of all processes waits for one of them from now on."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout)
    else:  # torch before 2.13
        dist.distributed_c10d._set_pg_timeout(timeout)
