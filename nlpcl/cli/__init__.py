"""The command line: `nlpcl run`, `sweep`, `tune`, `list`, `info`, `data`, `compare` and `leaderboard`."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from nlpcl.cli import compare, data, leaderboard, run, show, sweep, tune  # noqa: F401 - each adds its commands
from nlpcl.cli.app import app
from nlpcl.errors import UsageError, printable

# Typer's parser raises this or a subclass; which module it lives in changed with Typer's versions.
ParserError: Any = typer.BadParameter.__base__


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a user's mistake, 130 interrupted."""
    try:
        outcome = app(args=argv, prog_name="nlpcl", standalone_mode=False)
    except UsageError as error:
        message = str(error)
    except ParserError as error:
        message = error.format_message()
    except (KeyboardInterrupt, typer.Abort) as interrupt:
        print(": ".join(filter(None, ["nlpcl: interrupted", str(interrupt)])), file=sys.stderr)
        return 130
    else:
        return outcome if isinstance(outcome, int) else 0
    if message:  # none where the help was shown instead
        print(f"nlpcl: error: {printable(message)}", file=sys.stderr)
    return 2


def entry_point() -> None:
    """What the `nlpcl` script calls."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main())
