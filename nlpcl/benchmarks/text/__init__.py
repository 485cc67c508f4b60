"""Streams of texts, one file each."""

from nlpcl.benchmarks._tokens import load_tokenizer

__all__ = ["load_tokenizer"]
