"""`python leaderboard/build.py --out DIR` is `nlpcl leaderboard build --out DIR`, of the results beside it."""

import sys
from pathlib import Path

from nlpcl.cli import main

RESULTS = Path(__file__).resolve().parent / "results"

if __name__ == "__main__":
    given = sys.argv[1:]
    if not any(word.startswith("--results") for word in given):
        given.append(f"--results={RESULTS}")
    raise SystemExit(main(["leaderboard", "build", *given]))
