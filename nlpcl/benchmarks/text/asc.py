"""ASC: aspect sentiment classification in 19 domains."""

from __future__ import annotations

import pandas as pd

from nlpcl.benchmarks._files.content import json_of, text_of
from nlpcl.benchmarks._files.published import known_data, orders_of
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut, text_stream
from nlpcl.benchmarks.text._lifelong_sent_class import FILE_OF_SPLIT, LIFELONG_SENT_CLASS, fetch_lifelong
from nlpcl.errors import UsageError
from nlpcl.options import Options

_LABELS = ("positive", "negative", "neutral")
_POLARITIES = {"+": 0, "positive": 0, "-": 1, "negative": 1, "neutral": 2}


def _path(domain: str, split: str) -> str:
    group, _, name = domain.partition("_")
    if group == "XuSemEval14":
        return f"dat/XuSemEval/asc/14/{name}/{FILE_OF_SPLIT[split]}.json"
    return f"dat/{group.replace('domains', 'Domains')}/asc/{name}/{FILE_OF_SPLIT[split]}.json"


def _labels(domain: str) -> tuple[str, ...]:
    return _LABELS if domain.startswith("XuSemEval14") else _LABELS[:2]


def _frame(request: StreamRequest[Options], domain: str, split: str) -> pd.DataFrame:
    path = _path(domain, split)
    rows = []
    for key, row in json_of(text_of(fetch_lifelong(request, path), path), path).items():
        if row["polarity"] not in _POLARITIES:
            raise UsageError(f"asc/{path}, entry {key}: unknown polarity {row['polarity']!r}.")
        rows.append({"text": row["term"], "text_pair": row["sentence"], "label": _POLARITIES[row["polarity"]]})
    return pd.DataFrame(rows)


@text_stream(
    "asc",
    title="aspect sentiment classification, 19 domains",
    source=LIFELONG_SENT_CLASS,
    licence="none stated in the source repository; SemEval-2014 and the review corpora have terms of their own",
    citation="Hu and Liu, KDD 2004; Ding, Liu and Yu, WSDM 2008; Liu et al., AAAI 2015; Pontiki et al., SemEval-2014; "
    "as a stream: Ke, Xu and Liu, NAACL 2021",
    labels=_LABELS,
    orders=20,
    sizes=(10_241, 879, 2_344),
    published=orders_of("asc"),
    known=known_data("asc", _labels, lambda domain: (_path(domain, split) for split in FILE_OF_SPLIT)),
)
def ASC(request: StreamRequest[Options]) -> list[TextTask]:
    """Aspect sentiment classification: the polarity of an aspect term (segment A) in a sentence (segment B).

    The two SemEval tasks have three classes, the 17 product tasks two; task-incremental heads have that size, the
    domain-incremental head three. The files' own order and the published splits are kept. Under a data root the files
    are in `asc/`.
    """

    def task(domain: str) -> TextTask:
        train, valid, test = (_frame(request, domain, split) for split in FILE_OF_SPLIT)
        return TextTask(domain, _labels(domain), shuffle_cut(train, request.train_size, request.seed), valid, test)

    return [task(domain) for domain in request.task_names]
