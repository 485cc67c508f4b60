"""A sweep of two methods on two orders of the tasks, then what the differences are worth.

    python examples/sweep.py [ENCODER]

What has a record in OUT is not run again, so a sweep may be stopped and started. The same on the command line:

    nlpcl sweep --strategy ncl,hat --order seed:0-1 --tasks 2 --train-size 60 --epochs 4 --jobs 2 --out OUT
    nlpcl compare ncl hat --results OUT
"""

import sys
import tempfile
from pathlib import Path

from nlpcl.cli.display import SweepReporter
from nlpcl.leaderboard.compare import compare
from nlpcl.leaderboard.files import read_runs, select_runs
from nlpcl.leaderboard.report import markdown
from nlpcl.sweeps.cells import Execution
from nlpcl.sweeps.grid import Grid
from nlpcl.sweeps.local import cores, run_local
from nlpcl.sweeps.plan import plan


def main(encoder: str, out: Path) -> None:
    # Each value of one option goes with each of the others: four runs. Grid.read(Path("grid.toml")) reads grids.
    fields = {"strategy": "ncl,hat", "order": "seed:0-1", "tasks": 2, "train_size": 60, "epochs": 4, "model": encoder}
    grid, execution = Grid(fields), Execution(out)
    cells = plan(grid.requests(), out).to_run
    with SweepReporter(len(cells), execution) as progress:  # tells on stderr how it goes
        run_local(cells, min(2, cores()), execution, progress)  # each as a process; run_on_ray does it on a cluster
    print(f"{len(cells)} runs, {len(progress.failed)} failed")
    print(markdown(compare(select_runs(("ncl", "hat"), read_runs(out)))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else "minilm", Path(folder))
