"""`python leaderboard/compare.py A B ...` is `nlpcl compare A B ...`."""

import sys

from nlpcl.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["compare", *sys.argv[1:]]))
