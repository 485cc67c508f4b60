"""The machine under a run: seeds, device, versions."""

from __future__ import annotations

import os
import platform
import random
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpcl.errors import UsageError, suggest

PACKAGES = (
    *("nlpcl", "torch", "torchvision", "avalanche-lib", "transformers", "tokenizers", "torchmetrics"),
    *("numpy", "pillow"),
)
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps", "xpu")
DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", re.ASCII)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def matrix_products(tf32: bool) -> Iterator[None]:
    """Within it, products of float32 matrices and convolutions use TF32 where the GPU has it, or do not."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU where there is one.

    :raises UsageError: no such device, or none here.
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, and the number of threads."""
    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the source tree the package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())}


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def peak_gpu_memory_mb(device: torch.device) -> float | None:
    """Largest memory allocated on a GPU so far, in MiB; None on another device."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else None


def host() -> dict[str, Any]:
    """The machine, in words that name no person or path."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    facts = {"system": platform.system(), "machine": platform.machine(), "cpu": _processor(), "gpu": gpu}
    return {**facts, "cores": os.cpu_count()}


def _processor() -> str | None:
    """The processor's model; Linux alone tells it in words."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
