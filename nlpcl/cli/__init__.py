"""The command line: `nlpcl run`, `sweep`, `tune`, `list`, `info`, `data`, `compare` and `leaderboard`."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer

from nlpcl.cli import compare, data, leaderboard, run, show, sweep, tune  # noqa: F401 - each adds its commands
from nlpcl.cli.app import app
from nlpcl.errors import UsageError, UsageErrors, printable
from nlpcl.training.launch import speaks

# Typer's parser raises this or a subclass; which module it lives in changed with Typer's versions.
ParserError: Any = typer.BadParameter.__base__


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a user's mistake, 130 interrupted."""
    code, message = 2, ""
    lines: list[str] = []
    try:
        outcome = app(args=argv, prog_name="nlpcl", standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
    except UsageError as error:
        if error.of_one_process or speaks(everywhere=True):  # each machine has a terminal
            lines, message = (error.lines, error.summary) if isinstance(error, UsageErrors) else ([], str(error))
    except OSError as error:  # any code may be the first to look for a file of this name
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = (
            f"a name of {len(str(error.filename))} characters is too long for a file: {str(error.filename)[:60]}..."
        )
    except ParserError as error:  # its message is empty if the help was shown
        message = error.format_message() if speaks(everywhere=True) else ""
    except (KeyboardInterrupt, typer.Abort):  # newer versions of Typer return 130 themselves
        code = 130
    if code == 130 and speaks():
        print("nlpcl: interrupted", file=sys.stderr)
    elif message:
        for line in lines:  # above the sentence, which a sweep takes from the last line of a log
            print(f"  {line}", file=sys.stderr)
        print(f"nlpcl: error: {printable(message)}", file=sys.stderr)
    return code


def entry_point() -> None:
    """Run the `nlpcl` script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "WORLD_SIZE" in os.environ:  # what goes wrong between processes is raised as well
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    raise SystemExit(main())
