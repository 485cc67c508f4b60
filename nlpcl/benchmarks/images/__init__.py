"""Streams of images, one file each."""
