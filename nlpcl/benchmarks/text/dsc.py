"""DSC: document sentiment classification in Amazon's product categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import (
    TextTask,
    published_hashes,
    published_orders,
    shuffle_cut,
    text_benchmark_from_tasks,
)
from nlpcl.benchmarks._files.download import data_bytes
from nlpcl.config.orders import Published, order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

REVISION = "d02aae98f2111bb72d3f18f6a568d166d64e7ad7"
SOURCE = f"https://raw.githubusercontent.com/ZixuanKe/LifelongSentClass/{REVISION}"
LABELS = ("negative", "positive")
CLASSES = {"-1": 0, "1": 1}
SPLIT_FILES = {"train": "train", "valid": "dev", "test": "test"}


def _read(content: bytes, path: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(content.decode("utf-8").rstrip("\n").split("\n"), start=1):
        text, _, label = line.rpartition("\t")
        if label not in CLASSES:
            raise UsageError(f"dsc/{path}, line {number}: unknown label {label!r}.")
        rows.append((text, CLASSES[label]))
    return pd.DataFrame(rows, columns=["text", "label"])


def _published(domains: int, **asked: Any) -> Published:
    """An explicit order may name any of the 24 domains."""
    return published_orders("dsc" if domains == 10 else "dsc_24"), published_orders("dsc_24")[0]


@register_benchmark(
    "dsc",
    title="document sentiment classification, 10 or 24 product categories",
    source=f"GitHub ZixuanKe/LifelongSentClass, commit {REVISION}",
    licence="none stated in the source repository; the reviews are Amazon's",
    citation="McAuley et al., SIGIR 2015; as a stream: Ke, Liu, Wang and Shu, ECML-PKDD 2020",
    labels=LABELS,
    orders=20,
    sizes=(37_326, 5_000, 4_666),
    published=_published,
)
def DSC(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    domains: Literal[10, 24] = 10,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Document sentiment classification: is a product review positive?

    The published "small" version is `train_size=200`: the training examples shuffled with `seed` and the
    first 200 kept, whatever their classes.

    :param scenario: `til` or `dil`.
    :param order: number of a published order, 0 to 19, `seed:N`, or a list of domains, any of the 24.
    :param domains: 10 or 24, whose published orders count.
    :param tokenizer: name of the encoder, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param tasks: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of that draw.
    :param root: folder that holds `dsc/`; None: downloaded, unless NLPCL_DATA names one.
    :raises UsageError: unknown order or domain; a file missing, altered or out of reach.
    """
    used: dict[str, str] = {}

    def frame(domain: str, split: str) -> pd.DataFrame:
        path = f"dat/dsc/{domain}_{SPLIT_FILES[split]}.tsv"
        used[f"dsc/{path}"] = digest = published_hashes("dsc")[path]
        return _read(data_bytes("dsc", path, digest, f"{SOURCE}/{path}", root), path)

    def task(domain: str) -> TextTask:
        train = shuffle_cut(frame(domain, "train"), train_size, seed)
        return TextTask(domain, LABELS, train, frame(domain, "valid"), frame(domain, "test"))

    orders, known = _published(domains)
    return text_benchmark_from_tasks(
        [task(domain) for domain in order_tasks(orders, order, tasks, known)],
        name="dsc",
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        labels=LABELS,
        files=used,
    )
