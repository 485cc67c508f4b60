"""Streams as Avalanche benchmarks, one file each."""

from nlpcl.benchmarks.asc import ASC
from nlpcl.benchmarks.base import TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks.demo import Demo

__all__ = ["ASC", "Demo", "TextTask", "text_benchmark_from_tasks"]
