"""Which of the processes that torchrun starts this is, without torch: from the environment alone."""

from __future__ import annotations

import os

VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Return whether torchrun, or what sets the same variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and all(name in os.environ for name in VARIABLES)


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def is_main_process() -> bool:
    """Return whether this is the process that writes to the terminal: the first of all."""
    return not launched() or os.environ["RANK"] == "0"
