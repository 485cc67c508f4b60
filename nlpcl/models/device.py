"""Copying tensors to a device."""

from __future__ import annotations

import torch
from torch import Tensor

PAGE_LOCKED = ("cuda",)
"""Kinds of devices that copy from page-locked memory while the host goes on."""


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return x on a device. A copy to a GPU goes through page-locked memory, so the host does not wait for it."""
    if device.type in PAGE_LOCKED and x.device.type == "cpu":
        x = x.contiguous().pin_memory()
    return x.to(device, non_blocking=True)
