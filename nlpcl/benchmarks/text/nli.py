"""NLI: natural language inference in five genres of MultiNLI."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nlpcl.benchmarks._files.content import numbered_lines, text_of
from nlpcl.benchmarks._files.download import own_files
from nlpcl.benchmarks._files.published import known_labels, orders_of
from nlpcl.benchmarks._stream import StreamRequest
from nlpcl.benchmarks._text import TextTask, shuffle_cut, text_stream
from nlpcl.errors import UsageError
from nlpcl.options import Options, option

_HUB = "nyu-mll/multi_nli"
_REVISION = "da70db2af9d09693783c3320c4249840212ee221"
_LABELS = ("neutral", "entailment", "contradiction")
_HUB_LABELS = ("entailment", "neutral", "contradiction")
_FILES = {"train": "nli/mnli_train.tsv", "test": "nli/mnli_val.tsv"}
_HUB_SPLITS = {"train": "train", "test": "validation_matched"}
_NAMES = {"sentence1": "premise", "sentence2": "hypothesis"}
_COLUMNS = ["premise", "hypothesis", "label", "genre"]


class NLIOptions(Options):
    """The options of NLI."""

    premise_first: bool = option(
        False, "segment A is the premise; by default the hypothesis, as in the original toolkit"
    )


def _from_files(request: StreamRequest[Any], split: str) -> pd.DataFrame:
    path = _FILES[split]
    lines = [(number, line.rstrip("\r")) for number, line in numbered_lines(text_of(request.read(path), path))]
    header = [_NAMES.get(name, name) for name in lines[0][1].split("\t")] if lines else []
    for column in _COLUMNS:
        if header.count(column) != 1:
            raise UsageError(f"{path} must have one column {column!r}: it needs premise, hypothesis, label and genre.")
    rows = []
    for number, line in lines[1:]:
        row = line.split("\t")
        if len(row) != len(header) or "\r" in line:
            raise UsageError(f"{path}, line {number}: it has {len(row)} fields, and the first line {len(header)}.")
        rows.append(row)
    return pd.DataFrame(rows, columns=header)[_COLUMNS]


def _from_hub(request: StreamRequest[Any], split: str) -> pd.DataFrame:
    import datasets

    try:
        part = datasets.load_dataset(_HUB, revision=_REVISION, split=_HUB_SPLITS[split])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"could not load {_HUB} ({type(error).__name__}); check the network, or name a folder that holds "
            f"{_FILES[split]} with --data-root."
        ) from error
    request.files[f"{_HUB}:{_HUB_SPLITS[split]}"] = _REVISION
    frame = part.select_columns(_COLUMNS).to_pandas()
    labels = [_HUB_LABELS[label] if label >= 0 else "-" for label in frame["label"]]
    named: pd.DataFrame = frame.assign(label=labels)
    return named


@text_stream(
    "nli",
    title="natural language inference, 5 genres of MultiNLI",
    source=f"datasets {_HUB}, revision {_REVISION}",
    licence="mixed: mostly OANC; parts of fiction CC-BY-3.0, CC-BY-SA-3.0 and others",
    citation="Williams, Nangia and Bowman, NAACL 2018; as a stream: PyContinual (Ke et al.)",
    labels=_LABELS,
    orders=20,
    # Of the full set, from the genres' sizes in Williams et al., table 1.
    sizes=(353_431, 39_271, 9_815),
    published=orders_of("nli"),
    known=known_labels(_LABELS, {f"{_HUB}:{split}": _REVISION for split in _HUB_SPLITS.values()}),
    own_files=own_files(*(f"{path}{packed}" for path in _FILES.values() for packed in ("", ".gz"))),
    options=NLIOptions,
)
def NLI(request: StreamRequest[NLIOptions]) -> list[TextTask]:
    """Natural language inference by genre: does the premise entail the hypothesis?

    The first 90 % of a genre's training pairs train, the rest validate; its pairs of the matched validation set
    test. Pairs without a gold label are left out.

    Under a data root are `nli/mnli_train.tsv` and `nli/mnli_val.tsv` (or .gz), tab separated with a header and the
    columns premise (or sentence1), hypothesis (or sentence2), label and genre; without one the data come from the hub.
    """
    read = _from_hub if request.folder() is None else _from_files
    pairs = {split: read(request, split) for split in _FILES}
    first, second = ("premise", "hypothesis") if request.options.premise_first else ("hypothesis", "premise")

    def frame(genre: str, split: str) -> pd.DataFrame:
        rows = pairs[split][(pairs[split]["genre"] == genre) & (pairs[split]["label"] != "-")]
        unknown = set(rows["label"]) - set(_LABELS)
        if unknown:
            raise UsageError(f"nli, {genre}: unknown label {sorted(unknown)[0]!r}.")
        columns = {"text": rows[first], "text_pair": rows[second], "label": rows["label"].map(_LABELS.index)}
        return pd.DataFrame(columns).reset_index(drop=True)

    def task(genre: str) -> TextTask:
        rows = frame(genre, "train")
        cut = int(0.9 * len(rows))
        train = shuffle_cut(rows[:cut], request.train_size, request.seed)
        return TextTask(genre, _LABELS, train, rows[cut:].reset_index(drop=True), frame(genre, "test"))

    return [task(genre) for genre in request.task_names]
