"""Run a command, and say in one sentence what a user got wrong."""

from __future__ import annotations

import errno
from typing import Any

import typer

from nlpcl.cli import compare, data, leaderboard, run, show, sweep, tune  # noqa: F401 - each adds its commands
from nlpcl.cli.app import app, warn
from nlpcl.errors import UsageError, UsageErrors
from nlpcl.training.launch import is_main_process, local_rank

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
        if error.of_one_process or local_rank() == 0:  # each machine has a terminal
            lines, message = (error.lines, error.summary) if isinstance(error, UsageErrors) else ([], str(error))
    except OSError as error:  # any code may be the first to look for a file of this name
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = f"the name {error.filename} is too long for a file."
    except ParserError as error:  # its message is empty if the help was shown
        message = error.format_message() if local_rank() == 0 else ""
    except (KeyboardInterrupt, typer.Abort):  # newer versions of Typer return 130 themselves
        code = 130
    if code == 130 and is_main_process():
        warn("nlpcl: interrupted")
    elif message:
        for line in lines:  # above the sentence, which a sweep takes from the last line of a log
            warn(line, indent="  ")
        warn(f"nlpcl: error: {message}")
    return code
