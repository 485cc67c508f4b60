"""Streams of texts, one file each."""
