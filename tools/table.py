"""A Markdown table of records: one row a strategy, means over seeds; by backbone.

    for seed in 0 1 2; do for s in ncl hat; do nlpcl run --strategy $s --seed $seed --out runs; done; done
    python tools/table.py runs

Average accuracy, macro-F1, accuracy right after learning and forgetting in %, with the standard deviation over seeds;
seconds of the fastest run (what else the machine does only adds to them) and mean peak resident memory (MB); KB to keep
for the first task and how many more for each later one, without the parameters that all tasks share.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from nlpcl.records.record import Record

SHARED = "parameters"


def spread(values: list[float | None]) -> str:
    """Mean and, of more than one, standard deviation."""
    if None in values:
        return ""
    numbers = np.array(values, dtype=float)
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")


def growth(record: Record) -> tuple[float, float]:
    """KB kept after the first task, and the mean of what each later task adds."""
    kept = [sum(size for kind, size in row.items() if kind != SHARED) / 1024 for row in record.sizes["kept_bytes"]]
    return kept[0], (kept[-1] - kept[0]) / max(1, len(kept) - 1)


def row(strategy: str, records: list[Record]) -> list[str]:
    """The cells of one strategy."""
    derived = [record.derived() for record in records]
    percent = {
        name: [None if d[name] is None else 100 * d[name] for d in derived]  # type: ignore[operator]
        for name in ("average_accuracy", "macro_f1", "learning_accuracy", "forgetting")
    }
    first, more = (np.mean(x) for x in zip(*map(growth, records), strict=True))
    seconds = min(record.measured.seconds.total or 0.0 for record in records)
    memory = np.mean([record.measured.peak_memory_mb or 0.0 for record in records])
    return [
        strategy,
        str(len(records)),
        *map(spread, percent.values()),
        f"{seconds:.0f}",
        f"{memory:.0f}",
        f"{first:.0f}",
        f"{more:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A Markdown table of the records below a folder.")
    parser.add_argument("folder", type=Path)
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(parser.parse_args().folder.rglob("record.json")):
        record = Record.load(path)
        groups[record.spec["backbone"]][record.spec["strategy"]].append(record)
    columns = ["strategy", "seeds", "accuracy", "macro-F1", "learnt", "forgetting", "s", "MB"]
    columns += ["KB, task 1", "KB, each later"]
    for backbone, strategies in groups.items():
        rows = [row(name, records) for name, records in strategies.items()]
        print(f"\n`{backbone}`\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        for cells in sorted(rows, key=lambda cells: -float(cells[2].split()[0])):
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
