"""Parts of a user's own data: of any Python type, alike in their columns, drawn where they are missing."""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpcl.benchmarks import TextTask
from nlpcl.benchmarks.folder._text_tasks import draw
from nlpcl.errors import UsageError
from tests.helpers.own_data import Blank, frame, one_task, stream, write

WORDS = [f"cat {c}" for c in string.ascii_lowercase]


def written(folder: Path) -> Path:
    frame().to_csv(folder / "part.csv", index=False)
    return folder / "part.csv"


class Polars:
    """As much of polars' frame as is read; it is no dependency."""

    __module__ = "polars.dataframe.frame"

    def to_dict(self, as_series: bool) -> dict[str, list[Any]]:
        assert not as_series
        return frame().to_dict("list")


Polars.__name__ = "DataFrame"

TAKEN: dict[str, Callable[[Path], Any]] = {
    "frame": lambda folder: frame(),
    "frame with an index": lambda folder: frame().set_index(pd.Index([7] * 20)),
    "frame of strings": lambda folder: frame().convert_dtypes(),
    "Dataset": lambda folder: datasets.Dataset.from_pandas(frame()),
    "Dataset of torch": lambda folder: datasets.Dataset.from_pandas(frame()).with_format("torch"),
    "arrow": lambda folder: pyarrow.table(frame()),
    "polars": lambda folder: Polars(),
    "records": lambda folder: frame().to_dict("records"),
    "tuple of records": lambda folder: tuple(frame().to_dict("records")),
    "lists": lambda folder: frame().to_dict("list"),
    "arrays": lambda folder: {name: column.to_numpy() for name, column in frame().items()},
    "path": lambda folder: written(folder),
    "name": lambda folder: str(written(folder)),
}
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "None": (lambda folder: None, "leave it out"),
    "generator": (lambda folder: (row for row in frame().to_dict("records")), "list"),
    "stream": (lambda folder: datasets.Dataset.from_pandas(frame()).to_iterable_dataset(), "IterableDataset"),
    "number": (lambda folder: 3, "int"),
    "column": (lambda folder: frame()["text"], "Series"),
    "transformed": (
        lambda folder: datasets.Dataset.from_pandas(frame()).with_transform(lambda rows: rows),
        "with_transform",
    ),
    "texts": (lambda folder: ["good cat"], "row 1: not an object"),
    "lists that differ": (lambda folder: {"text": ["a"], "label": [0, 1]}, "length"),
    "no lists": (lambda folder: {"text": "a", "label": "b"}, "'text'"),
    "array of no dimensions": (lambda folder: {"text": np.array("x"), "label": [0]}, "'text'"),
    "csv as text": (lambda folder: frame().to_csv(index=False) * 20, "no file"),
    "empty path": (lambda folder: "", "no file"),
    "no file": (lambda folder: folder / "nowhere.csv", "nowhere.csv"),
    "folder": (lambda folder: folder, "no file"),
    "no rows": (lambda folder: frame().iloc[:0], "no rows"),
    "no records": (lambda folder: [], "'text' is missing"),
    "columns twice": (lambda folder: pd.concat([frame(), frame()["text"]], axis=1), "'text' is there twice"),
    "labels twice": (lambda folder: pd.concat([frame(), frame()["label"]], axis=1), "'label' is there twice"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_table_may_be_of_many_types(kind: str, tmp_path: Path) -> None:
    data = TAKEN[kind](tmp_path)
    expected = {"name": "a", "labels": ["no", "yes"], "train": 18, "valid": 2, "test": 20}
    assert one_task(data, frame()).sizes == [expected]
    assert one_task(frame(), data).sizes == [expected]
    assert stream({"a": data}, test_size=4).sizes == [{**expected, "train": 14, "test": 4}]


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_what_is_no_table_is_one_sentence(kind: str, part: str, tmp_path: Path) -> None:
    make, word = REFUSED[kind]
    with pytest.raises(UsageError, match="task a") as caught:
        stream({"a": {"train": frame(), "test": frame(), part: make(tmp_path)}})
    assert word in str(caught.value) and part in str(caught.value)


@pytest.mark.parametrize(
    ("tasks", "word"),
    [
        (None, "NoneType"),
        (3, "int"),
        (frame(), "task_column"),
        (frame().to_dict("records"), "task_column"),
        (frame().to_dict("list"), "task_column"),
        ((row for row in [1]), "generator"),
        ({"train": frame(), "test": frame()}, "parts, not tasks"),
        (datasets.DatasetDict(train=datasets.Dataset.from_pandas(frame())), "parts, not tasks"),
        ([frame(), frame()], "no part test"),
        ({"a": {"text": ["x"]}}, "no part test"),
        ({"a": {}}, "no part"),
        ({"a": {"training data": frame()}}, "training data"),
        ({"a": [1, 2], "b": {"train": frame(), "test": frame()}}, "task a"),
        ({1: {"train": frame(), "test": frame()}, "1": {"train": frame(), "test": frame()}}, "'1'"),
        ({None: {"train": frame(), "test": frame()}}, "None"),
        ({" ": {"train": frame(), "test": frame()}}, "' '"),
        ({"a\nb": {"train": frame(), "test": frame()}}, "name"),
        ({}, "at least one task"),
        ([], "at least one task"),
        ("nowhere", "nowhere"),
        ("", "no folder or file"),
        ("x" * 5000, "no folder or file"),
        ("a\0b", "no folder or file"),
        ({"a": (frame(), frame())}, "a task is {'train'"),
        ({"a": (frame().to_dict("list"), frame().to_dict("list"))}, "a task is {'train'"),
        ({"a": ({"train": frame()}, {"test": frame()})}, "a task is {'train'"),
        ({"a": ["train.csv", "test.csv"]}, "a task is {'train'"),
        ({"a": "text,label\ngood cat,no\n" * 1000}, "no file"),
    ],
)
def test_what_holds_no_tasks_is_one_sentence(tasks: Any, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        stream(tasks)
    assert word in str(caught.value)


def test_tasks_without_names_are_numbered(tmp_path: Path) -> None:
    parts = {"Train": frame(), "VALIDATION": frame(), "test": frame()}
    assert stream([parts, parts]).task_names == ["task0", "task1"]
    assert stream([frame(), frame()], test_size=0.2).task_names == ["task0", "task1"]
    assert stream({7: parts, "b": parts}, order=["b", "7"]).task_names == ["b", "7"]
    root = write(tmp_path, {f"{part}.csv": frame().to_csv(index=False) for part in ("train", "test")})
    benchmark = stream({"a": root, "b": {"train": root / "train.csv", "test": root / "test.csv"}})
    assert sorted(benchmark.files) == ["a/test.csv", "a/train.csv", "b/test/test.csv", "b/train/train.csv"]


def test_a_task_may_be_called_as_a_column() -> None:
    parts = {datasets.Split.TRAIN: frame(), datasets.Split.TEST: frame()}
    assert stream({"text": parts, "label": parts}).task_names == ["text", "label"]


def test_parts_of_other_names_are_named() -> None:
    data = datasets.Dataset.from_pandas(frame())
    with pytest.raises(UsageError, match="validation_matched is not read"):
        stream({"a": datasets.DatasetDict(train=data, validation_matched=data, test=data)})
    with pytest.raises(UsageError) as caught:
        stream({"a": datasets.DatasetDict(train=data, validation_matched=data, unlabeled=data)})
    for word in ("no part test", "validation_matched", "unlabeled"):
        assert word in str(caught.value)
    with pytest.raises(UsageError, match="dev is a second part valid"):
        stream({"a": {"train": data, "valid": data, "dev": data, "test": data}})


@settings(deadline=None, max_examples=60)
@given(st.fixed_dictionaries({part: st.sets(st.sampled_from(["text", "text_pair", "label", "id"])) for part in
                              ("train", "valid", "test")}))  # fmt: skip
def test_parts_have_the_same_columns_as_far_as_they_are_read(columns: dict[str, set[str]]) -> None:
    everything = frame().assign(text_pair="dog", id=range(20))
    parts = {part: everything[sorted(names)] for part, names in columns.items()}
    needed = all({"text", "label"} <= names for names in columns.values())
    if needed and len({"text_pair" in names for names in columns.values()}) == 1:
        assert stream({"a": parts}).sizes[0]["valid"] == 20
        return
    with pytest.raises(UsageError) as caught:
        stream({"a": parts})
    for part, names in columns.items():
        assert all(f"{part}: column {name!r} is missing" in str(caught.value) for name in {"text", "label"} - names)
    if needed:
        lacking = next(part for part, names in columns.items() if "text_pair" not in names)
        assert f"{lacking} has no text_pair" in str(caught.value)


def test_a_column_that_is_empty_in_one_part_is_missing_there() -> None:
    pairs = frame().assign(text_pair="dog")
    with pytest.raises(UsageError, match="test has no text_pair"):
        one_task(pairs, pairs.assign(text_pair=None))
    with pytest.raises(UsageError, match=r"train, row 5: no text_pair"):
        one_task(pairs.assign(text_pair=[*["dog"] * 4, " ", *["dog"] * 15]), pairs)
    empty = pairs.assign(text_pair="")
    benchmark = stream({"a": {"train": pairs, "test": pairs}, "b": {"train": empty, "test": empty}})
    assert any("pairs of texts in a" in note for note in benchmark.notes)


@pytest.mark.parametrize(
    ("text", "fault"),
    [(3, "text is of type int"), (0.5, "of type float"), (True, "of type bool"), (None, "no text"),
     (float("nan"), "no text"), (pd.NA, "no text"), ("", "no text"), (" \n", "no text"), (["a"], "of type list"),
     ({"a": 1}, "of type dict"), (b"a", "bytes"), ("a\ud83d", "half of a character"),
     (pd.Timestamp(0), "Timestamp")],
)  # fmt: skip
def test_a_text_that_is_none_is_named_for_what_it_is(text: Any, fault: str) -> None:
    data = frame()
    data["text"] = pd.Series([*data["text"][:2], text, *data["text"][3:]], dtype=object)
    with pytest.raises(UsageError, match=f"row 3: .*{fault}.*counted from 1"):
        one_task(frame(), data)


def test_a_missing_column_is_offered_by_its_usual_name() -> None:
    other = frame().rename(columns={"text": "sentence", "label": "sentiment"})
    with pytest.raises(UsageError) as caught:
        one_task(other, other)
    assert "text_column=sentence" in str(caught.value) and "label_column=sentiment" in str(caught.value)
    assert one_task(other, other, text_column="sentence", label_column="sentiment").n_classes == [2]
    with pytest.raises(UsageError, match="sentence"):
        one_task(other, other, text_column="sentense", label_column="sentiment")
    with pytest.raises(UsageError, match="text_pair_column"):
        one_task(frame(), frame(), text_pair_column="text")
    with pytest.raises(UsageError, match="'pair'"):
        one_task(frame(), frame(), text_pair_column="pair")
    with pytest.raises(UsageError, match="text_column"):
        one_task(frame(), frame(), text_column=1)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"train_size": size} for size in (1.5, -1, 0, True, "2")),
        *({"seed": seed} for seed in ("a", -1, 0.5)),
        *({"max_length": length} for length in (0, "a")),
        *({"test_size": size} for size in (1.5, 0, -3, 1.0, "half")),
        *({"valid_size": size} for size in (True, float("nan"))),
        *({"order": order} for order in (None, 0.5, [1])),
        *({"subset": subset} for subset in (1.5, [None], True)),
        *({"scenario": scenario} for scenario in ("TIL", None)),
        *({"separator": separator} for separator in ("ab", "", 1, True, b",")),
        *({"encoding": encoding} for encoding in ("klingon", "", 5, b"utf-8", False)),
        *({f"{column}_column": name} for column in ("text", "text_pair", "label", "task") for name in ("", 0, False)),
        *({"separator": ","}, {"encoding": "utf-8"}),  # of files, and none is read
    ],
)
def test_a_wrong_argument_is_one_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        one_task(frame(), frame(), **wrong)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_a_draw_takes_each_class_in_proportion_and_leaves_it_one(classes: list[int], data: st.DataObject) -> None:
    counts = Counter(classes)
    most = len(classes) - len(counts)
    size = data.draw(st.integers(0, most))
    taken = draw(classes, size, random.Random(data.draw(st.integers(0, 3))))
    assert taken == sorted(set(taken)) and len(taken) == size
    drawn_counts = Counter(classes[i] for i in taken)
    shares = {label: size * count / len(classes) for label, count in counts.items()}
    assert all(drawn_counts[label] < counts[label] for label in counts)
    if all(share <= counts[label] - 1 for label, share in shares.items()):
        assert all(abs(drawn_counts[label] - shares[label]) < 1 for label in counts)
    with pytest.raises(ValueError, match="drawn"):
        draw(classes, most + 1, random.Random(0))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from("abc"), min_size=2, max_size=26),
    st.one_of(st.none(), st.integers(1, 30), st.floats(0.05, 0.95)),
    st.one_of(st.none(), st.integers(1, 30), st.floats(0.05, 0.95)),
)
def test_missing_parts_are_drawn_and_every_class_is_still_trained(
    labels: list[str], test_size: float | None, valid_size: float | None
) -> None:
    data = pd.DataFrame({"text": WORDS[: len(labels)], "label": labels})
    n, spare = len(labels), len(labels) - len(set(labels))
    size_of = {size: size if isinstance(size, int) else max(1, int(n * size + 1e-9)) for size in (test_size, valid_size)
               if size is not None}  # fmt: skip
    tested = size_of[test_size] if test_size is not None else 0
    left = spare - tested
    validated = size_of[valid_size] if valid_size is not None else min(max(1, n // 10), left)
    parts = {"train": data} if test_size is not None else {"train": data, "test": data}
    options = {"test_size": test_size, "valid_size": valid_size}
    if left < 1 or validated > left:
        with pytest.raises(UsageError, match="task a"):
            stream({"a": parts}, **options)
        return
    benchmark = stream({"a": parts}, **options, seed=3)
    (size,) = benchmark.sizes
    assert (size["train"], size["valid"]) == (n - tested - validated, validated)
    assert size["test"] == (tested if test_size is not None else n)
    assert set(benchmark.train_stream[0].dataset.targets) == set(range(len(set(labels))))
    assert any("part valid" in note for note in benchmark.notes)
    assert any("part test" in note for note in benchmark.notes) == (test_size is not None)


def test_draws_follow_the_seed(caplog: pytest.LogCaptureFixture) -> None:
    def drawn(seed: int) -> list[list[int]]:
        benchmark = stream({"a": frame([*range(5)] * 4)}, test_size=0.25, valid_size=3, seed=seed)
        return [
            list(part[0].dataset.targets)
            for part in (benchmark.train_stream, benchmark.valid_stream, benchmark.test_stream)
        ]

    assert drawn(0) == drawn(0) and len({str(drawn(seed)) for seed in range(5)}) > 1
    assert "test_size=0.25" in caplog.text


def test_a_size_that_draws_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="test_size"):
        one_task(frame(), frame(), test_size=0.5)
    with pytest.raises(UsageError, match="valid_size"):
        stream({"a": {part: frame() for part in ("train", "valid", "test")}}, valid_size=0.5)


def test_what_may_spoil_a_result_is_noted() -> None:
    train = frame(["positive", "postive"] * 10)
    train.loc[3, "text"] = train.loc[2, "text"]
    notes = "\n".join(stream({"a": {"train": train, "valid": train.tail(4), "test": train.head(5)}}).notes)
    assert "5 of 5 test texts" in notes and "4 of 4 validation texts" in notes
    assert "1 training texts occur with different labels" in notes and "'positive' and 'postive'" in notes
    many = frame([f"label {i}" for i in range(30)] * 2)
    assert any("scores?" in note for note in one_task(many, many.iloc[:0:-1], valid_size=1).notes)
    assert any("no training example of" in note for note in one_task(many, many, train_size=9).notes)
    clean = pd.DataFrame({"text": WORDS, "label": ["no", "yes"] * 13})
    parts = {"train": clean[:20], "valid": clean[20:22], "test": clean[22:]}
    assert stream({"a": parts}).notes == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data.drop(columns="text_pair"), "text_pair"),
        (lambda data: pd.concat([data, data["text"]], axis=1), "'text' is there twice"),
        (lambda data: data.assign(text=3), "'text' must hold texts"),
        (lambda data: data.assign(text_pair=["dog", None] * 10), "'text_pair' must hold texts"),
    ],
)
def test_a_text_task_refuses_parts_that_differ(change: Callable[[pd.DataFrame], pd.DataFrame], word: str) -> None:
    data = frame([0, 1] * 10).assign(text_pair="dog").astype({"label": int})
    with pytest.raises(UsageError, match=word):
        TextTask("a", ("no", "yes"), data, data, change(data))


@pytest.mark.parametrize("labels", [("no", "no"), (0, 1)])
def test_a_text_task_refuses_labels_without_a_name_of_their_own(labels: Any) -> None:
    data = frame([0, 1] * 10).astype({"label": int})
    with pytest.raises(UsageError, match="labels"):
        TextTask("a", labels, data, data, data)


def test_a_head_needs_all_labels_of_its_tasks() -> None:
    from nlpcl.benchmarks import text_benchmark_from_tasks

    data = frame([0, 1] * 10).astype({"label": int})
    task = TextTask("a", ("no", "yes"), data, data, data)
    for scenario in ("dil", "cil"):
        with pytest.raises(UsageError, match="label yes of a"):
            text_benchmark_from_tasks([task], name="n", scenario=scenario, tokenizer=Blank(), labels=("no", "maybe"))


def test_columns_that_are_not_read_are_noted() -> None:
    nested = frame().assign(id=1, doc=[{"body": text} for text in frame()["text"]], text_pair="dog")
    benchmark = one_task(nested, frame().assign(text_pair="dog"))
    assert "columns that are not read: id, doc" in benchmark.notes
    benchmark = one_task(nested, nested, text_column="doc.body")
    assert "columns that are not read: text, id" in benchmark.notes


def test_options_of_files_that_are_not_read_are_refused(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "a.parquet")
    frame().to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame().to_csv(tmp_path / "a.csv.gz", index=False)
    for suffix, refused in ((".parquet", ["separator", "encoding"]), (".jsonl", ["separator"]), (".csv.gz", [])):
        for option, value in (("separator", ","), ("encoding", "latin-1")):
            if option in refused:
                with pytest.raises(UsageError, match=option):
                    one_task(tmp_path / f"a{suffix}", frame(), **{option: value})
            else:
                assert one_task(tmp_path / f"a{suffix}", frame(), **{option: value}).sizes[0]["test"] == 20


def test_a_column_is_named_by_a_text() -> None:
    numbered = frame().assign(**{"0": "dog"}).rename(columns={"0": 0})
    with pytest.raises(UsageError, match="text_column"):
        one_task(numbered, numbered, text_column=0)
    assert one_task(numbered, numbered, text_column="0").sizes[0]["test"] == 20
