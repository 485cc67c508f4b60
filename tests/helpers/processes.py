"""Processes that train together, as torchrun starts them."""

from __future__ import annotations

import os
import socket
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from nlpcl.cli import main
from nlpcl.runs.checkpoint import CheckpointManager


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def start(rank: int, port: int, argv: list[str], said: Path, dies: tuple[int, int] | None) -> None:
    """The command line as torchrun starts it; `dies`: it gets that signal at its n-th step."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
    steps, stepped = 0, CheckpointManager.stepped

    def counted(keeper: CheckpointManager, strategy: Any) -> None:
        nonlocal steps
        steps += 1
        if dies and steps == dies[0]:
            os.kill(os.getpid(), dies[1])
        stepped(keeper, strategy)

    with (
        said.open("w") as file,
        redirect_stdout(file),
        redirect_stderr(file),
        patch.object(CheckpointManager, "stepped", counted),
    ):
        code = main(argv)
    raise SystemExit(code)


def run_two(processes: Any, argv: list[list[str]], said: Path, dies: Any = (None, None)) -> tuple[list[Any], list[str]]:
    """Exit codes of two processes, and what they said."""
    port = free_port()
    files = [said / f"said{rank}" for rank in (0, 1)]
    both = [processes.Process(target=start, args=(r, port, argv[r], files[r], dies[r])) for r in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    codes = [process.exitcode for process in both]
    for process in both:
        process.kill()
    return codes, [file.read_text() for file in files]
