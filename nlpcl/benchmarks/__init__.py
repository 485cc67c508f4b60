"""Streams as Avalanche benchmarks, one file each."""

from nlpcl.benchmarks.asc import ASC
from nlpcl.benchmarks.base import TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks.celeba import CelebA
from nlpcl.benchmarks.core50 import CORe50
from nlpcl.benchmarks.demo import Demo
from nlpcl.benchmarks.dsc import DSC
from nlpcl.benchmarks.femnist import FEMNIST
from nlpcl.benchmarks.folder import Folder, text_benchmark
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
from nlpcl.benchmarks.newsgroups import Newsgroups
from nlpcl.benchmarks.nli import NLI
from nlpcl.benchmarks.partitions import (
    HeterogeneousCIFAR10,
    PartitionedCIFAR10,
    PartitionedCIFAR100,
    PartitionedFashionMNIST,
    PartitionedMNIST,
)
from nlpcl.benchmarks.ssc import SSC
from nlpcl.benchmarks.vlcs import VLCS
from nlpcl.benchmarks.words import Words

__all__ = [
    "ASC",
    "DSC",
    "FEMNIST",
    "NLI",
    "SSC",
    "VLCS",
    "CORe50",
    "CelebA",
    "Demo",
    "Folder",
    "HeterogeneousCIFAR10",
    "ImageTask",
    "Newsgroups",
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
    "Words",
    "image_benchmark_from_tasks",
    "text_benchmark",
    "text_benchmark_from_tasks",
]
