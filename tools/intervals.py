"""Average accuracy and forgetting with bootstrap intervals over test examples, and differences between settings.

Reads the answers of `nlpcl run ... --dry-run --json` from standard input, one run a line, and runs them. Runs that
differ only in their seed are averaged. With `--stream valid` the test stream is never looked at: for choosing settings.

    for seed in 0 1 2; do for s in hat ctr; do nlpcl run --strategy $s --seed $seed --dry-run --json; done; done \
      | python tools/intervals.py

An example is drawn or left out for all rows of the matrix, seeds and settings together, so what they share cancels. The
seeds stay as they are: an interval is of the test examples and says nothing of the spread between runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from avalanche.evaluation import PluginMetric

from nlpcl.config.spec import CompleteSpec
from nlpcl.records.metrics import average, forgetting
from nlpcl.runs.fit import fit
from nlpcl.runs.run import setup
from nlpcl.training.device import choose_device

Cells = dict[tuple[int, int], np.ndarray]
DRAWS = 2000


class Correct(PluginMetric[Cells]):
    """Which examples were right: (row, column) -> (n,) of 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: Cells = {}

    def before_eval_exp(self, strategy: Any) -> None:
        self.now: list[np.ndarray] = []

    def after_eval_iteration(self, strategy: Any) -> None:
        self.now.append((strategy.mb_output.argmax(dim=1) == strategy.mb_y).cpu().numpy())

    def after_eval_exp(self, strategy: Any) -> None:
        where = (strategy.clock.train_exp_counter - 1, strategy.experience.current_experience)
        self.cells[where] = np.concatenate(self.now).astype(float)

    def result(self) -> Cells:
        return self.cells

    def reset(self) -> None:
        """Nothing: all cells are kept."""


def cells_of(spec: CompleteSpec, stream: Any, data_root: str | None) -> Cells:
    """Train, evaluate, and say which examples were right."""
    benchmark, strategy = setup(spec, data_root=data_root, device=choose_device("auto"))
    correct = Correct()
    strategy.evaluator.metrics.append(correct)
    epochs = [spec.epochs_for(name) for name in benchmark.task_names]
    fit(strategy, benchmark, eval=spec.eval, stream=stream, epochs=epochs)
    return correct.cells


def scores(cells: Cells, draws: dict[int, np.ndarray]) -> np.ndarray:
    """Average accuracy and forgetting in percent, (2, draws), for weights (draws, n) of each column's examples."""
    drawn = {where: draws[where[1]] @ right for where, right in cells.items()}
    tasks = 1 + max(column for _, column in cells)
    found = []
    for i in range(len(draws[0])):
        matrix = [[float(drawn[r, c][i]) if (r, c) in drawn else None for c in range(tasks)] for r in range(tasks)]
        lost = forgetting(matrix)
        found.append((average(matrix), np.nan if lost is None else lost))
    return 100 * np.array(found, dtype=float).T


def weights(sizes: dict[int, int]) -> dict[int, np.ndarray]:
    """For each column the examples as they are, then DRAWS bootstrap samples, as weights (1 + DRAWS, n)."""
    rng = np.random.default_rng(0)
    return {
        column: np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)]) / n
        for column, n in sorted(sizes.items())
    }


def interval(values: np.ndarray) -> str:
    low, high = np.percentile(values[1:], [2.5, 97.5]) if not np.isnan(values).any() else (np.nan, np.nan)
    return f"{values[0]:6.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="Bootstrap intervals for the runs on standard input.")
    parser.add_argument("--stream", choices=("test", "valid"), default="test")
    parser.add_argument("--data-root", help="folder with the data")
    arguments = parser.parse_args()
    settings: dict[str, list[np.ndarray]] = {}
    draws: dict[int, np.ndarray] = {}
    for line in sys.stdin:
        spec, started = CompleteSpec.parse(json.loads(line)["spec"]), time.monotonic()
        cells = cells_of(spec, arguments.stream, arguments.data_root)
        draws = draws or weights({column: len(right) for (_, column), right in cells.items()})
        label = f"{spec.strategy}, learning rate {spec.learning_rate:g}, {spec.backbone_options} {spec.options}"
        result = scores(cells, draws)
        settings.setdefault(label, []).append(result)
        print(f"{label}, seed {spec.seed}: average {result[0, 0]:.2f}, forgetting {result[1, 0]:.2f}", end=" ")
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    first: tuple[str, np.ndarray] | None = None
    for label, runs in settings.items():
        mean = np.mean(runs, axis=0)
        print(f"{label}, {len(runs)} seed(s): average {interval(mean[0])}, forgetting {interval(mean[1])}")
        if first is None:
            first = label, mean
        else:
            print(f"    average minus that of {first[0].partition(',')[0]} above: {interval(mean[0] - first[1][0])}")


if __name__ == "__main__":
    main()
