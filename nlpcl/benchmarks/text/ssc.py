"""SSC: sentence sentiment classification in ten product domains, from files the user has."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import TextTask, orders_of, published_orders, shuffle_cut, text_benchmark_from_tasks
from nlpcl.benchmarks._files.download import data_root, own_files, read
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

LABELS = ("0", "1", "2")  # what they stand for is not documented


def _read(content: bytes, file: Path) -> pd.DataFrame:
    try:
        lines = [line for line in content.decode("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start}).") from error
    rows = [(line[1:].strip(), int(line[0])) for line in lines if line[0] in LABELS]
    if len(rows) < len(lines):
        warnings.warn(
            f"{file}: {len(lines) - len(rows)} lines do not begin with 0, 1 or 2 and are left out", stacklevel=2
        )
    return pd.DataFrame(rows, columns=["text", "label"])


@register_benchmark(
    "ssc",
    title="sentence sentiment classification, 10 domains, from your own copy of its files",
    source="not public; read from DATA_ROOT/ssc/<domain>.txt",
    licence="unknown",
    citation="as a stream: PyContinual (Ke et al.)",
    labels=LABELS,
    orders=20,
    published=orders_of("ssc"),
    own_files=own_files("ssc/*.txt", "ssc/*.txt.gz"),
)
def SSC(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Sentence sentiment classification, three classes.

    One text file per domain; the first character of a line is its label, 0, 1 or 2, the rest the sentence; other
    lines are left out, and a warning counts them. The first 80 % of a file train, the next 10 % validate, the
    rest test. No public copy of the files is known.

    :param scenario: `til` or `dil`.
    :param order: number of a published order, 0 to 19, `seed:N`, or a list of domains.
    :param tokenizer: name of the encoder, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param tasks: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of that draw.
    :param root: folder that holds `ssc/`; None: the one NLPCL_DATA names.
    :raises UsageError: unknown order or domain; a file missing or not UTF-8.
    """
    folder = data_root(root)
    if folder is None:
        raise UsageError("the files of ssc are not public: put yours into DIR/ssc/<domain>.txt, then --data-root DIR.")
    used: dict[str, str] = {}

    def task(domain: str) -> TextTask:
        content = read(folder / "ssc" / f"{domain}.txt")
        used[f"ssc/{domain}.txt"] = hashlib.sha256(content).hexdigest()
        frame = _read(content, folder / "ssc" / f"{domain}.txt")
        first, second = int(0.8 * len(frame)), int(0.9 * len(frame))
        train = shuffle_cut(frame[:first], train_size, seed)
        return TextTask(domain, LABELS, train, frame[first:second], frame[second:])

    return text_benchmark_from_tasks(
        [task(domain) for domain in order_tasks(published_orders("ssc"), order, tasks)],
        name="ssc",
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        labels=LABELS,
        files=used,
    )
