"""`python leaderboard/build.py --out DIR` is `nlpcl leaderboard build --out DIR`, of the results beside it."""

import sys
from pathlib import Path

from nlpcl.cli import main

RESULTS = Path(__file__).resolve().parent / "results"

if __name__ == "__main__":
    raise SystemExit(main(["leaderboard", "build", "--results", str(RESULTS), *sys.argv[1:]]))
