"""The public names of `nlpcl.benchmarks` for type checkers; `__init__.py` imports them on first use."""

from nlpcl.benchmarks._base import Benchmark
from nlpcl.benchmarks._images import ImageTask, image_benchmark_from_tasks, image_stream
from nlpcl.benchmarks._stream import Stream, StreamRequest
from nlpcl.benchmarks._text import TextTask, text_benchmark_from_tasks, text_stream
from nlpcl.benchmarks.folder.stream import Folder, text_benchmark
from nlpcl.benchmarks.images.celeba import CelebA
from nlpcl.benchmarks.images.core50 import CORe50
from nlpcl.benchmarks.images.femnist import FEMNIST
from nlpcl.benchmarks.images.partitions import (
    HeterogeneousCIFAR10,
    PartitionedCIFAR10,
    PartitionedCIFAR100,
    PartitionedFashionMNIST,
    PartitionedMNIST,
)
from nlpcl.benchmarks.images.split import (
    PermutedMNIST,
    RotatedMNIST,
    SplitCIFAR10,
    SplitCIFAR100,
    SplitFMNIST,
    SplitMNIST,
    SplitTinyImageNet,
)
from nlpcl.benchmarks.images.vlcs import VLCS
from nlpcl.benchmarks.text.asc import ASC
from nlpcl.benchmarks.text.demo import Demo
from nlpcl.benchmarks.text.dsc import DSC
from nlpcl.benchmarks.text.newsgroups import Newsgroups
from nlpcl.benchmarks.text.nli import NLI
from nlpcl.benchmarks.text.ssc import SSC
from nlpcl.benchmarks.words import Words

__all__ = [
    "ASC",
    "DSC",
    "FEMNIST",
    "NLI",
    "SSC",
    "VLCS",
    "Benchmark",
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
    "Stream",
    "StreamRequest",
    "TextTask",
    "Words",
    "image_benchmark_from_tasks",
    "image_stream",
    "text_benchmark",
    "text_benchmark_from_tasks",
    "text_stream",
]
