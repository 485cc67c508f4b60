"""`python leaderboard/build.py --out DIR` is `nlpcl leaderboard build --out DIR`."""

import sys

from nlpcl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["leaderboard", "build", *sys.argv[1:]]))
