"""Run a command, and say in one sentence what a user got wrong."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any

import typer

from nlpcl.cli import compare, data, leaderboard, run, show, sweep, tune  # noqa: F401 - each adds its commands
from nlpcl.cli.app import app, warn
from nlpcl.config.files import FULL
from nlpcl.errors import UsageError, UsageErrors, is_out_of_memory
from nlpcl.training.launch import speaks

# Typer's parser raises this or a subclass; which module it lives in changed with Typer's versions.
ParserError: Any = typer.BadParameter.__base__


def dispatch(argv: list[str] | None = None) -> int:
    """Run a command; return the exit code as `nlpcl.cli.main`.

    :param argv: the command's arguments; None means those of the process.
    """
    code, message = 2, ""
    lines: list[str] = []
    try:
        outcome = app(args=argv, prog_name="nlpcl", standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
    except UsageError as error:
        if error.of_one_process or speaks(everywhere=True):  # each machine has a terminal
            lines, message = (error.lines, error.summary) if isinstance(error, UsageErrors) else ([], str(error))
    except (OSError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):  # outside a run, which says more of it
            message = "out of memory: free some, or try a smaller --model, a lower --max-length or fewer --tasks."
        elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            # Any code may be the first to look for a file of this name.
            message = f"the name {error.filename} is too long for a file."
        elif isinstance(error, OSError) and error.errno in FULL:
            message = f"could not write {error.filename or 'the output'} ({error.strerror}): make room there."
        else:
            raise
    except ParserError as error:  # its message is empty if the help was shown
        message = error.format_message() if speaks(everywhere=True) else ""
    except (KeyboardInterrupt, typer.Abort):  # newer versions of Typer return 130 themselves
        code = 130
    with suppress(OSError):  # a log on a full disk: the code tells all the same
        if code == 130 and speaks():
            warn("nlpcl: interrupted")
        elif message:
            for line in lines:  # above the sentence, which a sweep takes from the last line of a log
                warn(line, indent="  ")
            warn(f"nlpcl: error: {message}")
    return code
