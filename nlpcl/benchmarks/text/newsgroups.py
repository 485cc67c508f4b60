"""Newsgroups: the 20 Newsgroups messages as ten tasks of two topics."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks._base import TextTask, orders_of, published_orders, shuffle_cut, text_benchmark_from_tasks
from nlpcl.benchmarks._files.download import data_bytes, data_root, own_files, read
from nlpcl.config.orders import order_tasks
from nlpcl.errors import UsageError
from nlpcl.registry import register_benchmark

URL = "https://ndownloader.figshare.com/files/5975967"
ARCHIVE = "20news-bydate.tar.gz"
SHA256 = "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"
# The original toolkit's order of classes: task k has classes 2k and 2k + 1.
TOPICS = (
    *("comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware"),
    *("comp.windows.x", "rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey", "sci.crypt"),
    *("sci.electronics", "sci.med", "sci.space", "misc.forsale", "talk.politics.misc", "talk.politics.guns"),
    *("talk.politics.mideast", "talk.religion.misc", "alt.atheism", "soc.religion.christian"),
)
Messages = dict[tuple[str, str], list[str]]


def _from_folder(folder: Path, used: dict[str, str]) -> Messages:
    found: Messages = {}
    for split in ("train", "test"):
        file = folder / "20newsgroups" / f"{split}.jsonl"
        content = read(file)
        used[f"20newsgroups/{split}.jsonl"] = hashlib.sha256(content).hexdigest()
        for number, line in enumerate(content.decode("utf-8").rstrip("\n").split("\n"), start=1):
            row = json.loads(line)
            if row.get("category") not in TOPICS:
                raise UsageError(f"{file}, line {number}: unknown category {row.get('category')!r}.")
            found.setdefault((split, row["category"]), []).append(row["text"])
    return found


def _from_archive(folder: Path | None, used: dict[str, str]) -> Messages:
    content = data_bytes("20newsgroups", ARCHIVE, SHA256, URL, folder)
    used[ARCHIVE] = SHA256
    found: Messages = {}
    # Members are read where they are: nothing of the archive is ever written.
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        for member in sorted(members, key=lambda member: member.name):
            split, _, rest = member.name.partition("/")
            part = archive.extractfile(member)
            assert part is not None
            message = part.read().decode("latin-1")
            found.setdefault((split.removeprefix("20news-bydate-"), rest.partition("/")[0]), []).append(message)
    return found


def _own_files(root: Path, spec: Any) -> dict[str, str]:
    if (root / "20newsgroups" / ARCHIVE).is_file():  # which is read, and checked
        return {}
    return own_files(*(f"20newsgroups/{split}.jsonl{packed}" for split in ("train", "test") for packed in ("", ".gz")))(
        root, spec
    )


def body(message: str) -> str:
    """The message after its headers, which end at the first empty line."""
    return message.partition("\n\n")[2]


def _held_out(rows: Sequence[str], topic: str, seed: int) -> tuple[list[str], list[str]]:
    """Nine tenths to train and one tenth, drawn with `seed`, to validate; both in the order of the file."""
    chosen = set(random.Random(f"{seed} {topic}").sample(range(len(rows)), round(len(rows) / 10)))
    return [r for i, r in enumerate(rows) if i not in chosen], [r for i, r in enumerate(rows) if i in chosen]


@register_benchmark(
    "newsgroups",
    title="20 Newsgroups, ten tasks of two topics",
    source=f"the bydate edition, {URL}",
    licence="none stated; the messages are their writers'",
    citation="Lang, ICML 1995; as a stream: PyContinual (Ke et al.)",
    labels=TOPICS,
    scenarios=("til", "cil"),
    reason="the labels of its tasks share no meaning",
    orders=20,
    sizes=(10_184, 1_130, 7_532),
    published=orders_of("newsgroups"),
    own_files=_own_files,
)
def Newsgroups(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    strip_headers: bool = True,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Topic classification of messages; task `newsgroup_k` tells topics 2k and 2k + 1 apart.

    The official test set of the bydate edition; of the training messages of each topic a tenth validates. The
    original toolkit used the older edition of 19,997 messages.

    :param scenario: `til`, or `cil`: class-incremental, one head of 20 topics. The labels of different tasks share no
        meaning, so there is no `dil`.
    :param order: number of a published order, 0 to 19, `seed:N`, or a list of tasks.
    :param strip_headers: leave out everything before the first empty line: sender, organisation and subject, which is
        not what a classifier of texts should learn from (in the older edition headers even name the group). False, as
        in the original toolkit, keeps them.
    :param tokenizer: name of the encoder, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param tasks: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of that draw and of the validation part.
    :param root: folder with `20newsgroups/20news-bydate.tar.gz`, or with `20newsgroups/train.jsonl` and `test.jsonl`
        (or .gz), one object with `category` and `text` a line; None: downloaded, unless NLPCL_DATA names a folder.
    :raises UsageError: unknown order or task; data missing, altered or out of reach.
    """
    names = order_tasks(published_orders("newsgroups"), order, tasks)
    used: dict[str, str] = {}
    folder = data_root(root)
    if folder is None or (folder / "20newsgroups" / ARCHIVE).is_file():
        messages = _from_archive(folder, used)
    else:
        messages = _from_folder(folder, used)

    def frame(parts: list[list[str]]) -> pd.DataFrame:
        rows = [(body(text) if strip_headers else text, label) for label, texts in enumerate(parts) for text in texts]
        return pd.DataFrame(rows, columns=["text", "label"])

    def task(name: str) -> TextTask:
        first = 2 * int(name.partition("_")[2])
        topics = TOPICS[first : first + 2]
        halves = [_held_out(messages["train", topic], topic, seed) for topic in topics]
        train = shuffle_cut(frame([half[0] for half in halves]), train_size, seed)
        test = frame([messages["test", topic] for topic in topics])
        return TextTask(name, topics, train, frame([half[1] for half in halves]), test)

    return text_benchmark_from_tasks(
        [task(name) for name in names],
        name="newsgroups",
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        labels=TOPICS if scenario == "cil" else None,
        files=used,
    )
