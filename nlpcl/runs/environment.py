"""The machine and the software under a run, as its record names them."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    *("nlpcl", "torch", "torchvision", "avalanche-lib", "transformers", "tokenizers", "torchmetrics"),
    *("numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result, and the number of threads."""
    installed = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def peak_gpu_memory_mb(device: torch.device) -> float | None:
    """Return the largest memory allocated on a GPU so far, in MiB; None on another device."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else None


@functools.cache  # each checkpoint asks; what runs is what was imported
def git_state() -> dict[str, str | bool] | None:
    """Return commit and dirty flag of the source tree the package runs from, or None if it is installed."""
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
    """Return the largest resident memory of this process so far, in MiB."""
    import resource  # which Windows lacks, where `run` refuses to start

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # macOS counts bytes


def host() -> dict[str, str | int | None]:
    """Describe the machine in words that name no person or path."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    cpu = platform.processor() or None
    with suppress(OSError):  # Linux alone tells the model in words
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    machine = {"system": platform.system(), "machine": platform.machine(), "cpu": cpu, "gpu": gpu}
    return {**machine, "cores": os.cpu_count()}
