"""The command line: `nlpcl run`, `sweep`, `tune`, `list`, `info`, `data`, `compare` and `leaderboard`.

The commands are imported within `main`, so that Ctrl-C is heeded while Python still imports them.
"""

from __future__ import annotations

import io
import os
import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a user's mistake, 130 interrupted."""
    from nlpcl.cli.dispatch import dispatch

    return dispatch(argv)


def entry_point() -> None:
    """Run the `nlpcl` script: SIGTERM ends it as Ctrl-C does, and no name in another encoding stops its output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
    except KeyboardInterrupt:  # before `dispatch` runs
        print("nlpcl: interrupted", file=sys.stderr)
        code = 130
    raise SystemExit(code)
