"""The private names of torch that this package depends on; a test fails when an upgrade removes one."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]

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
