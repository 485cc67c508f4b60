"""Streams of texts, one file each."""

from nlpcl.benchmarks._text import load_tokenizer

__all__ = ["load_tokenizer"]
