"""Where and how precisely a run computes: seeds, the device, TF32."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from nlpcl.errors import UsageError, suggest

DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps", "xpu")
DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", re.ASCII)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let products of float32 matrices and convolutions use TF32 where the GPU has it, or forbid it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a GPU where there is one.

    :raises UsageError: the name is unknown, or this machine has no such device.
    """
    if not DEVICE.fullmatch(name):
        raise UsageError(f"unknown device {name!r}. {suggest(name, DEVICES)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: try --device cpu or --device auto.") from error
    return device
