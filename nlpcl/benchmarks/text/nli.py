"""NLI: natural language inference in five genres of MultiNLI."""

from __future__ import annotations

import csv
import hashlib
import io
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

HUB = "nyu-mll/multi_nli"
REVISION = "da70db2af9d09693783c3320c4249840212ee221"
LABELS = ("neutral", "entailment", "contradiction")
HUB_LABELS = ("entailment", "neutral", "contradiction")
FILES = {"train": "mnli_train.tsv", "test": "mnli_val.tsv"}
HUB_SPLITS = {"train": "train", "test": "validation_matched"}
COLUMNS = ["premise", "hypothesis", "label", "genre"]


def _from_folder(root: Path, split: str, used: dict[str, str]) -> pd.DataFrame:
    file = root / "nli" / FILES[split]
    content = read(file)
    used[f"nli/{FILES[split]}"] = hashlib.sha256(content).hexdigest()
    frame = pd.read_csv(io.BytesIO(content), sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)
    frame = frame.rename(columns={"sentence1": "premise", "sentence2": "hypothesis"})
    for column in COLUMNS:
        if column not in frame.columns:
            raise UsageError(f"{file}: column {column!r} is missing; it needs premise, hypothesis, label and genre.")
    return frame[COLUMNS]


def _from_hub(split: str, used: dict[str, str]) -> pd.DataFrame:
    import datasets

    try:
        part = datasets.load_dataset(HUB, revision=REVISION, split=HUB_SPLITS[split])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"could not load {HUB} ({type(error).__name__}); check the network, or name a folder that holds "
            f"nli/{FILES[split]} with --data-root."
        ) from error
    used[f"{HUB}:{HUB_SPLITS[split]}"] = REVISION
    frame = part.select_columns(COLUMNS).to_pandas()
    return frame.assign(label=[HUB_LABELS[label] if label >= 0 else "-" for label in frame["label"]])


@register_benchmark(
    "nli",
    title="natural language inference, 5 genres of MultiNLI",
    source=f"datasets {HUB}, revision {REVISION}",
    licence="mixed: mostly OANC; parts of fiction CC-BY-3.0, CC-BY-SA-3.0 and others",
    citation="Williams, Nangia and Bowman, NAACL 2018; as a stream: PyContinual (Ke et al.)",
    labels=LABELS,
    orders=20,
    # Of the full set, from the genres' sizes in Williams et al., table 1.
    sizes=(353_431, 39_271, 9_815),
    published=orders_of("nli"),
    own_files=own_files(*(f"nli/{name}{packed}" for name in FILES.values() for packed in ("", ".gz"))),
)
def NLI(
    scenario: str = "til",
    order: int | str | Sequence[str] = 0,
    *,
    premise_first: bool = False,
    tokenizer: Any = "minilm",
    max_length: int = 128,
    tasks: int | Sequence[str] | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Natural language inference by genre: does the premise entail the hypothesis?

    The first 90 % of a genre's training pairs train, the rest validate; its pairs of the matched validation set
    test. Pairs without a gold label are left out.

    :param scenario: `til` or `dil`.
    :param order: number of a published order, 0 to 19, `seed:N`, or a list of genres.
    :param premise_first: segment A is the premise; by default the hypothesis, as in the original toolkit.
    :param tokenizer: name of the encoder, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param tasks: only the first so many tasks of the order, or those with these names.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of that draw.
    :param root: folder with `nli/mnli_train.tsv` and `nli/mnli_val.tsv` (or .gz): tab separated with a header,
        columns premise (or sentence1), hypothesis (or sentence2), label, genre; None: the hub, unless NLPCL_DATA
        names a folder.
    :raises UsageError: unknown order or genre; data missing, of another layout or out of reach.
    """
    names = order_tasks(published_orders("nli"), order, tasks)
    used: dict[str, str] = {}
    folder = data_root(root)
    whole = {split: _from_hub(split, used) if folder is None else _from_folder(folder, split, used) for split in FILES}

    def frame(genre: str, split: str) -> pd.DataFrame:
        rows = whole[split][(whole[split]["genre"] == genre) & (whole[split]["label"] != "-")]
        unknown = set(rows["label"]) - set(LABELS)
        if unknown:
            raise UsageError(f"nli, {genre}: unknown label {sorted(unknown)[0]!r}.")
        first, second = ("premise", "hypothesis") if premise_first else ("hypothesis", "premise")
        columns = {"text": rows[first], "text_pair": rows[second], "label": rows["label"].map(LABELS.index)}
        return pd.DataFrame(columns).reset_index(drop=True)

    def task(genre: str) -> TextTask:
        rows = frame(genre, "train")
        cut = int(0.9 * len(rows))
        train = shuffle_cut(rows[:cut], train_size, seed)
        return TextTask(genre, LABELS, train, rows[cut:].reset_index(drop=True), frame(genre, "test"))

    return text_benchmark_from_tasks(
        [task(genre) for genre in names],
        name="nli",
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
        labels=LABELS,
        files=used,
    )
