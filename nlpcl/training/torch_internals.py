"""The private names of torch that this package depends on; a test fails when an upgrade removes one."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch import distributed as dist

Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]

INHERITED = {"torch.nn.Conv1d": ("_conv_forward",), "torch.nn.Conv2d": ("_conv_forward",)}
"""What classes that extend one of torch's may call, and nothing else that is private there."""

COMPILER_ERRORS = ("torch._dynamo.exc", "torch._inductor.exc")
"""Modules whose exceptions say that `torch.compile` failed."""


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
