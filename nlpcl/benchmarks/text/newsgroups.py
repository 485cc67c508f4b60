"""Newsgroups: the 20 Newsgroups messages as ten tasks of two topics."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nlpcl.benchmarks._files.content import json_of, numbered_lines, text_of, unpacked
from nlpcl.benchmarks._files.download import data_bytes, own_files
from nlpcl.benchmarks._files.published import orders_of
from nlpcl.benchmarks._labels import has_surrogate
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut, text_stream
from nlpcl.errors import UsageError
from nlpcl.options import Options, option
from nlpcl.registry import Known, KnownTask

_URL = "https://ndownloader.figshare.com/files/5975967"
ARCHIVE = "20news-bydate.tar.gz"
_ARCHIVE_SHA256 = "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"
# The original toolkit's order of classes: task k has classes 2k and 2k + 1.
TOPICS = (
    *("comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"),
    *("comp.windows.x", "rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey", "sci.crypt"),
    *("sci.electronics", "sci.med", "sci.space", "misc.forsale", "talk.politics.misc", "talk.politics.guns"),
    *("talk.politics.mideast", "talk.religion.misc", "alt.atheism", "soc.religion.christian"),
)
_Messages = dict[tuple[str, str], list[str]]


class NewsgroupsOptions(Options):
    """The options of Newsgroups."""

    strip_headers: bool = option(
        True,
        "leave out everything before the first empty line: sender, organisation and subject, which is not what a "
        "classifier of texts should learn from (in the older edition headers even name the group). False, as in the "
        "original toolkit, keeps them",
    )


def _topics(name: str) -> tuple[str, ...]:
    first = 2 * int(name.partition("_")[2])
    return TOPICS[first : first + 2]


def _from_files(request: StreamRequest[Any]) -> _Messages:
    messages: _Messages = {}
    for split in ("train", "test"):
        path = f"20newsgroups/{split}.jsonl"
        for number, line in numbered_lines(text_of(request.read(path), path)):
            row = json_of(line, path, number)
            category, text = (row.get(key) if isinstance(row, dict) else None for key in ("category", "text"))
            if category not in TOPICS:
                raise UsageError(f"{path}, line {number}: unknown category {category!r}.")
            if not isinstance(text, str) or has_surrogate(text):
                raise UsageError(f"{path}, line {number}: the message must be a text, as its field text.")
            messages.setdefault((split, category), []).append(text)
        for topic in TOPICS:
            if (split, topic) not in messages:
                raise UsageError(f"{path} holds no message of the category {topic!r}; complete the data root.")
    return messages


def _from_archive(request: StreamRequest[Any]) -> _Messages:
    content = data_bytes("20newsgroups", ARCHIVE, _ARCHIVE_SHA256, _URL, request.folder())
    request.files[ARCHIVE] = _ARCHIVE_SHA256
    messages: _Messages = {}
    for path, message in unpacked(content, ARCHIVE).items():
        split, _, rest = path.removeprefix("20news-bydate-").partition("/")
        messages.setdefault((split, rest.partition("/")[0]), []).append(message.decode("latin-1"))
    return messages


def _own_files(root: Path, spec: Any) -> dict[str, str]:
    if (root / "20newsgroups" / ARCHIVE).is_file():  # which is read, and checked
        return {}
    return own_files(*(f"20newsgroups/{split}.jsonl{packed}" for split in ("train", "test") for packed in ("", ".gz")))(
        root, spec
    )


def body(message: str) -> str:
    """Return a message without its headers, which end at the first empty line."""
    return message.partition("\n\n")[2]


def _held_out(rows: Sequence[str], topic: str, seed: int) -> tuple[list[str], list[str]]:
    """Return nine tenths to train and one tenth, drawn with `seed`, to validate; both in the order of the file."""
    chosen = set(random.Random(f"{seed} {topic}").sample(range(len(rows)), round(len(rows) / 10)))
    return [r for i, r in enumerate(rows) if i not in chosen], [r for i, r in enumerate(rows) if i in chosen]


@text_stream(
    "newsgroups",
    title="20 Newsgroups, ten tasks of two topics",
    source=f"the bydate edition, {_URL}",
    licence="none stated; the messages are their writers'",
    citation="Lang, ICML 1995; as a stream: PyContinual (Ke et al.)",
    labels=TOPICS,
    scenarios=("til", "cil"),
    reason="the labels of its tasks share no meaning",
    orders=20,
    sizes=(10_184, 1_130, 7_532),
    published=orders_of("newsgroups"),
    known=lambda names, **arguments: Known([KnownTask(_topics(name)) for name in names], {ARCHIVE: _ARCHIVE_SHA256}),
    own_files=_own_files,
    options=NewsgroupsOptions,
)
def Newsgroups(request: StreamRequest[NewsgroupsOptions]) -> list[TextTask]:
    """Topic classification of messages; task `newsgroup_k` tells topics 2k and 2k + 1 apart.

    The official test set of the bydate edition; of the training messages of each topic a tenth, drawn with `seed`,
    validates. The original toolkit used the older edition of 19,997 messages. Class-incremental there is one head of 20
    topics. The labels of different tasks share no meaning, so there is no `dil`.

    Under a data root are `20newsgroups/20news-bydate.tar.gz`, or `20newsgroups/train.jsonl` and `test.jsonl` (or .gz)
    with one object with `category` and `text` a line.
    """
    folder = request.folder()
    packed = folder is None or (folder / "20newsgroups" / ARCHIVE).is_file()
    messages = _from_archive(request) if packed else _from_files(request)

    def frame(parts: list[list[str]]) -> pd.DataFrame:
        rows = [(text, label) for label, texts in enumerate(parts) for text in texts]
        if request.options.strip_headers:
            rows = [(body(text), label) for text, label in rows]
        return pd.DataFrame(rows, columns=["text", "label"])

    def task(name: str) -> TextTask:
        topics = _topics(name)
        halves = [_held_out(messages["train", topic], topic, request.seed) for topic in topics]
        train = shuffle_cut(frame([half[0] for half in halves]), request.train_size, request.seed)
        test = frame([messages["test", topic] for topic in topics])
        return TextTask(name, topics, train, frame([half[1] for half in halves]), test)

    return [task(name) for name in request.task_names]
