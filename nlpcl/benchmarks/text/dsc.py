"""DSC: document sentiment classification in Amazon's product categories."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

from nlpcl.benchmarks._files.published import known_data, published_orders
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut, text_stream
from nlpcl.benchmarks.text._lifelong_sent_class import FILE_OF_SPLIT, LIFELONG_SENT_CLASS, fetch_lifelong
from nlpcl.config.orders import Published
from nlpcl.errors import UsageError
from nlpcl.options import Options, option

_LABELS = ("negative", "positive")
_CLASSES = {"-1": 0, "1": 1}


class DSCOptions(Options):
    """The options of DSC."""

    domains: Literal[10, 24] = option(10, "10 or 24, whose published orders count")


def _path(domain: str, split: str) -> str:
    return f"dat/dsc/{domain}_{FILE_OF_SPLIT[split]}.tsv"


def _frame(request: StreamRequest[DSCOptions], domain: str, split: str) -> pd.DataFrame:
    path = _path(domain, split)
    lines = fetch_lifelong(request, path).decode("utf-8").rstrip("\n").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        text, _, label = line.rpartition("\t")
        if label not in _CLASSES:
            raise UsageError(f"dsc/{path}, line {number}: unknown label {label!r}.")
        rows.append((text, _CLASSES[label]))
    return pd.DataFrame(rows, columns=["text", "label"])


def _published(domains: int, **arguments: Any) -> Published:
    """Return the orders of 10 or 24 domains; an explicit order may name any of the 24."""
    return published_orders("dsc" if domains == 10 else "dsc_24"), published_orders("dsc_24")[0]


@text_stream(
    "dsc",
    title="document sentiment classification, 10 or 24 product categories",
    source=LIFELONG_SENT_CLASS,
    licence="none stated in the source repository; the reviews are Amazon's",
    citation="McAuley et al., SIGIR 2015; as a stream: Ke, Liu, Wang and Shu, ECML-PKDD 2020",
    labels=_LABELS,
    orders=20,
    sizes=(37_326, 5_000, 4_666),
    published=_published,
    known=known_data("dsc", lambda domain: _LABELS, lambda domain: (_path(domain, split) for split in FILE_OF_SPLIT)),
    options=DSCOptions,
)
def DSC(request: StreamRequest[DSCOptions]) -> list[TextTask]:
    """Document sentiment classification: is a product review positive?

    The published "small" version is `train_size=200`: the training examples shuffled with `seed` and the first 200
    kept, whatever their classes. An order may name any of the 24 domains. Under a data root the files are in `dsc/`.
    """

    def task(domain: str) -> TextTask:
        train, valid, test = (_frame(request, domain, split) for split in FILE_OF_SPLIT)
        return TextTask(domain, _LABELS, shuffle_cut(train, request.train_size, request.seed), valid, test)

    return [task(domain) for domain in request.task_names]
