"""Streams as Avalanche benchmarks, one file each.

A public name is imported on first use; `__init__.pyi` tells type checkers what it is.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "_base": ("Benchmark",),
    "_images": ("ImageTask", "image_benchmark_from_tasks", "image_stream"),
    "_stream": ("Stream", "StreamRequest"),
    "_text": ("TextTask", "text_benchmark_from_tasks", "text_stream"),
    "folder.stream": ("Folder", "text_benchmark"),
    "images.celeba": ("CelebA",),
    "images.core50": ("CORe50",),
    "images.femnist": ("FEMNIST",),
    "images.partitions": (
        *("HeterogeneousCIFAR10", "PartitionedCIFAR10", "PartitionedCIFAR100"),
        *("PartitionedFashionMNIST", "PartitionedMNIST"),
    ),
    "images.split": (
        *("PermutedMNIST", "RotatedMNIST", "SplitCIFAR10", "SplitCIFAR100"),
        *("SplitFMNIST", "SplitMNIST", "SplitTinyImageNet"),
    ),
    "images.vlcs": ("VLCS",),
    "text.asc": ("ASC",),
    "text.demo": ("Demo",),
    "text.dsc": ("DSC",),
    "text.newsgroups": ("Newsgroups",),
    "text.nli": ("NLI",),
    "text.ssc": ("SSC",),
    "words": ("Words",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(name for names in _HOME.values() for name in names)
