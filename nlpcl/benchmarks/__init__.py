"""Streams as Avalanche benchmarks, one file each."""

from nlpcl.benchmarks.asc import ASC
from nlpcl.benchmarks.base import TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks.demo import Demo
from nlpcl.benchmarks.dsc import DSC
from nlpcl.benchmarks.folder import Folder, text_benchmark
from nlpcl.benchmarks.newsgroups import Newsgroups
from nlpcl.benchmarks.nli import NLI
from nlpcl.benchmarks.ssc import SSC

__all__ = [
    "ASC",
    "DSC",
    "NLI",
    "SSC",
    "Demo",
    "Folder",
    "Newsgroups",
    "TextTask",
    "text_benchmark",
    "text_benchmark_from_tasks",
]
