"""The public names of `nlpcl.benchmarks`; `__init__.py` reads them here and imports each on first use."""

from ._base import Benchmark
from ._images import ImageTask, image_benchmark_from_tasks, image_stream
from ._stream import Stream, StreamRequest
from ._text import TextTask, text_benchmark_from_tasks, text_stream
from .folder.stream import Folder, text_benchmark
from .images.celeba import CelebA
from .images.core50 import CORe50
from .images.femnist import FEMNIST
from .images.partitions import (
    HeterogeneousCIFAR10,
    PartitionedCIFAR10,
    PartitionedCIFAR100,
    PartitionedFashionMNIST,
    PartitionedMNIST,
)
from .images.split import (
    PermutedMNIST,
    RotatedMNIST,
    SplitCIFAR10,
    SplitCIFAR100,
    SplitFMNIST,
    SplitMNIST,
    SplitTinyImageNet,
)
from .images.vlcs import VLCS
from .text.asc import ASC
from .text.demo import Demo
from .text.dsc import DSC
from .text.newsgroups import Newsgroups
from .text.nli import NLI
from .text.ssc import SSC
from .words import Words

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
