"""`python leaderboard/compare.py A B ...` is `nlpcl compare A B ...`, of the results beside it and of `runs`."""

import sys
from pathlib import Path

from nlpcl.cli import main

FOLDERS = (Path("runs"), Path(__file__).resolve().parent / "results")

if __name__ == "__main__":
    given = sys.argv[1:]
    if not any(word.startswith("--results") for word in given):
        given += [f"--results={folder}" for folder in FOLDERS if folder.is_dir()]
    raise SystemExit(main(["compare", *given]))
