"""SSC: sentence sentiment classification in ten product domains, from files the user has."""

from __future__ import annotations

import logging

import pandas as pd

from nlpcl.benchmarks._files.content import numbered_lines, text_of
from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._files.published import known_labels, orders_of
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut, text_stream
from nlpcl.errors import UsageError
from nlpcl.options import Options

_log = logging.getLogger(__name__)
_LABELS = ("0", "1", "2")  # what they stand for is not documented


def _read(request: StreamRequest[Options], path: str) -> pd.DataFrame:
    lines = [line for _, line in numbered_lines(text_of(request.read(path), path))]
    rows = [(line[1:].strip(), int(line[0])) for line in lines if line[0] in _LABELS]
    if len(rows) < len(lines):
        request.notes.append(f"{path}: {len(lines) - len(rows)} lines do not begin with 0, 1 or 2 and are left out")
        _log.warning("%s", request.notes[-1])
    return pd.DataFrame(rows, columns=["text", "label"])


@text_stream(
    "ssc",
    title="sentence sentiment classification, 10 domains, from your own copy of its files",
    source="not public; read from DATA_ROOT/ssc/<domain>.txt",
    licence="unknown",
    citation="as a stream: PyContinual (Ke et al.)",
    labels=_LABELS,
    orders=20,
    published=orders_of("ssc"),
    known=known_labels(_LABELS),
    own_files=own_files("ssc/*.txt", "ssc/*.txt.gz"),
)
def SSC(request: StreamRequest[Options]) -> list[TextTask]:
    """Sentence sentiment classification, three classes.

    Under a data root there is one text file per domain, `ssc/<domain>.txt`. The first character of a line is its label,
    0, 1 or 2, the rest the sentence; other lines are left out, and a note counts them. The first 80 % of a file
    train, the next 10 % validate, the rest test. No public copy of the files is known.
    """
    if request.folder() is None:
        raise UsageError("the files of ssc are not public: put yours into DIR/ssc/<domain>.txt, then --data-root DIR.")

    def task(domain: str) -> TextTask:
        path = f"ssc/{domain}.txt"
        frame = _read(request, path)
        first, second = int(0.8 * len(frame)), int(0.9 * len(frame))
        if not 0 < first < second < len(frame):
            raise UsageError(f"{path} holds {len(frame)} sentences, too few for three parts; complete the data root.")
        train = shuffle_cut(frame[:first], request.train_size, request.seed)
        return TextTask(domain, _LABELS, train, frame[first:second], frame[second:])

    return [task(domain) for domain in request.task_names]
