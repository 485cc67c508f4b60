"""Two methods on two orders of the tasks: a loop over specs, then what the differences are worth.

    python examples/compare.py [ENCODER]

What has a record in OUT is not run again, so the loop may be stopped and started.
"""

import itertools
import sys
import tempfile
from pathlib import Path

from nlpcl import RunSpec, run
from nlpcl.leaderboard.compare import compare
from nlpcl.leaderboard.files import read, select
from nlpcl.leaderboard.report import markdown

METHODS = ("ncl", "hat")


def main(encoder: str, out: Path) -> None:
    for strategy, order in itertools.product(METHODS, ("seed:0", "seed:1")):
        spec = RunSpec(strategy=strategy, order=order, tasks=2, train_size=120, epochs=5, model=encoder).filled()
        if not (out / spec.id / "record.json").exists():
            accuracy = run(spec, out=out).derived()["average_accuracy"]
            print(f"{strategy}, order {order}: {accuracy:.1%}")
    # On the command line: nlpcl sweep --strategy ncl,hat --order seed:0-1 ... --out OUT
    # and then: nlpcl compare ncl hat --results OUT
    print(markdown(compare(select(METHODS, read(out)))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else "minilm", Path(folder))
