"""Streams as Avalanche benchmarks, one file each."""

from nlpcl.benchmarks.asc import ASC
from nlpcl.benchmarks.base import TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks.celeba import CelebA
from nlpcl.benchmarks.core50 import CORe50
from nlpcl.benchmarks.demo import Demo
from nlpcl.benchmarks.femnist import FEMNIST
from nlpcl.benchmarks.image_tasks import ImageTask, image_benchmark_from_tasks
from nlpcl.benchmarks.images import (
    PermutedMNIST,
    RotatedMNIST,
    SplitCIFAR10,
    SplitCIFAR100,
    SplitFMNIST,
    SplitMNIST,
    SplitTinyImageNet,
)
from nlpcl.benchmarks.partitions import (
    HeterogeneousCIFAR10,
    PartitionedCIFAR10,
    PartitionedCIFAR100,
    PartitionedFashionMNIST,
    PartitionedMNIST,
)
from nlpcl.benchmarks.vlcs import VLCS

__all__ = [
    "ASC",
    "FEMNIST",
    "VLCS",
    "CORe50",
    "CelebA",
    "Demo",
    "HeterogeneousCIFAR10",
    "ImageTask",
    "PartitionedCIFAR10",
    "PartitionedCIFAR100",
    "PartitionedFashionMNIST",
    "PartitionedMNIST",
    "PermutedMNIST",
    "RotatedMNIST",
    "SplitCIFAR10",
    "SplitCIFAR100",
    "SplitFMNIST",
    "SplitMNIST",
    "SplitTinyImageNet",
    "TextTask",
    "image_benchmark_from_tasks",
    "text_benchmark_from_tasks",
]
