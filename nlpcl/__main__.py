"""`python -m nlpcl` is `nlpcl`."""

from nlpcl.cli import entry_point

entry_point()
