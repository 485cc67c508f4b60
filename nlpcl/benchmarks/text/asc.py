"""ASC: aspect sentiment classification in 19 domains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import (
    TextTask,
    orders_of,
    published_hashes,
    published_orders,
    shuffle_cut,
    text_benchmark_from_tasks,
)
from nlpcl.benchmarks._files.download import data_bytes
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

REVISION = "d02aae98f2111bb72d3f18f6a568d166d64e7ad7"
SOURCE = f"https://raw.githubusercontent.com/ZixuanKe/LifelongSentClass/{REVISION}"
POLARITIES = {"+": 0, "positive": 0, "-": 1, "negative": 1, "neutral": 2}
LABELS = ("positive", "negative", "neutral")
SPLIT_FILES = {"train": "train", "valid": "dev", "test": "test"}


def _path(domain: str, split: str) -> str:
    group, _, name = domain.partition("_")
    if group == "XuSemEval14":
        return f"dat/XuSemEval/asc/14/{name}/{SPLIT_FILES[split]}.json"
    return f"dat/{group.replace('domains', 'Domains')}/asc/{name}/{SPLIT_FILES[split]}.json"


def _read(content: bytes, path: str) -> pd.DataFrame:
    rows = []
    for key, row in json.loads(content).items():
        if row["polarity"] not in POLARITIES:
            raise UsageError(f"asc/{path}, entry {key}: unknown polarity {row['polarity']!r}.")
        rows.append({"text": row["term"], "text_pair": row["sentence"], "label": POLARITIES[row["polarity"]]})
    return pd.DataFrame(rows)


@register_benchmark(
    "asc",
    title="aspect sentiment classification, 19 domains",
    source=f"GitHub ZixuanKe/LifelongSentClass, commit {REVISION}",
    licence="none stated in the source repository; SemEval-2014 and the review corpora have terms of their own",
    citation="Hu and Liu, KDD 2004; Ding, Liu and Yu, WSDM 2008; Liu et al., AAAI 2015; Pontiki et al., SemEval-2014; "
    "as a stream: Ke, Xu and Liu, NAACL 2021",
    labels=LABELS,
    orders=20,
    sizes=(10_241, 879, 2_344),
    published=orders_of("asc"),
)
def ASC(
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
    """Aspect sentiment classification: the polarity of an aspect term (segment A) in a sentence (segment B).

    The two SemEval tasks have three classes, the 17 product tasks two; task-incremental heads have that
    size, the domain-incremental head three. The files' own order and the published splits are kept.

    :param scenario: `til` or `dil`.
    :param order: number of a published order, 0 to 19, `seed:N`, or a list of domains.
    :param tokenizer: name of the encoder, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param tasks: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of that draw.
    :param root: folder that holds `asc/`; None: downloaded, unless NLPCL_DATA names one.
    :raises UsageError: unknown order or domain; a file missing, altered or out of reach.
    """
    used: dict[str, str] = {}

    def frame(domain: str, split: str) -> pd.DataFrame:
        path = _path(domain, split)
        used[f"asc/{path}"] = digest = published_hashes("asc")[path]
        return _read(data_bytes("asc", path, digest, f"{SOURCE}/{path}", root), path)

    def task(domain: str) -> TextTask:
        labels = LABELS if domain.startswith("XuSemEval14") else LABELS[:2]
        train = shuffle_cut(frame(domain, "train"), train_size, seed)
        return TextTask(domain, labels, train, frame(domain, "valid"), frame(domain, "test"))

    return text_benchmark_from_tasks(
        [task(domain) for domain in order_tasks(published_orders("asc"), order, tasks)],
        name="asc",
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        labels=LABELS,
        files=used,
    )
