"""Labels of a user's own data: of any type, matched by name, never changed or made up."""

from __future__ import annotations

import io
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpcl.benchmarks._labels import LONGEST_TEXT, alike, in_order
from nlpcl.errors import UsageError
from tests.helpers.own_data import ROWS, frame, lines, one_task, stream, write


def labels_of(train: Any, test: Any, **options: Any) -> list[str]:
    found: list[str] = one_task(train, test, **options).sizes[0]["labels"]
    return found


def classed(names: list[str], numbers: list[Any]) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    texts = [f"good cat {i}" for i in range(len(numbers))]
    return datasets.Dataset.from_dict({"text": texts, "label": numbers}, features=features)


ANY = st.one_of(
    st.sampled_from(["no", "yes", "No", " no", "1", "01", "1.0", "0.5", "", " ", "[0]", "\ud83d", "³", "x" * 99]),
    st.integers(-2, 3),
    st.booleans(),
    st.sampled_from(
        [0.0, 1.0, -0.0, 0.37, math.nan, math.inf, np.float32(1), np.int8(2), np.bool_(True), np.str_("yes")]
    ),
    st.sampled_from([None, pd.NA, pd.NaT, [0], [0, 1], (1,), {0}, {"a": 1}, np.array([0]), b"no", 1j, pd.Timestamp(0)]),
    st.sampled_from([Fraction(1, 3), Fraction(2)]),
)


def name_of(label: Any) -> str | None:
    """The one name of a label that may be used, or None."""
    if isinstance(label, str):
        return str(label) if label.strip() and label not in ("[0]", "\ud83d") else None
    if isinstance(label, (bool, np.bool_)):
        return str(bool(label))
    if isinstance(label, (int, np.integer)):
        return str(int(label))
    if isinstance(label, (float, np.floating, Fraction)) and math.isfinite(label) and label == int(label):
        return str(int(label))
    return None


@settings(deadline=None, max_examples=150)
@given(st.lists(ANY, min_size=1, max_size=5))
def test_labels_of_any_type_are_classes_or_one_sentence(kinds: list[Any]) -> None:
    labels = kinds * 4
    names = [name_of(kind) for kind in kinds]
    try:
        found = labels_of(frame(labels), frame(labels))
    except UsageError as error:
        assert "task a" in str(error)
        usable = set(names) - {None}
        folded = {folded_plainly(str(name)) for name in usable}
        truths = folded & {"true", "false"} and folded & {"0.0", "1.0"}
        assert (
            truths
            or None in names
            or len({folded_plainly(str(name)) for name in usable}) < len(usable)
            or "0.5" in usable
        )
    else:
        assert None not in names
        # Numbers of a file of floats are the integers that they are.
        assert set(found) in ({str(name) for name in names}, {str(name).removesuffix(".0") for name in names})


def folded_plainly(name: str) -> str:
    plain = name.strip().lower().replace("³", "3")
    try:
        return str(float(plain))
    except ValueError:
        return plain


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        ([[0, 1]] * 8, "multi-label"),
        ([[0]] * 8, "multi-label"),
        (["[0, 1]", "['a']"] * 4, "multi-label"),
        (["[0 1]", "(0, 1)"] * 4, "multi-label"),
        (["0,1", "1"] * 4, "multi-label"),
        (["cat", "dog", "dog; cat"] * 4, "multi-label"),
        ([0.37, 1.0] * 4, "real-valued"),
        (["0.37", "1.0"] * 4, "real-valued"),
        ([0, 1, None, 1] * 2, "row 3: no label"),
        (["no", "yes", "", "yes"] * 2, "row 3: no label"),
        (["no", "yes", "yes\ud83d", "yes"] * 2, "row 3"),
        (["no", "yes", "no", b"yes"] * 2, "row 4"),
        ([{"a": 1}, "no"] * 4, r"object.*label_column=a\.b"),
        ([10**5000, 1, Fraction(10**5000, 3)] * 2, "row 3.*real-valued"),
        ([Decimal("sNaN"), Decimal("NaN"), 1] * 2, "row 1: no label .*in 4 of 6 rows"),
        ([Decimal("1.5"), 1] * 4, "real-valued"),
        (["no", "yes", "\u200b", "yes"] * 2, "row 3: label"),
        (["no", "yes", "no\0", "yes"] * 2, "row 3: label"),
        (["no", "yes", "x" * (LONGEST_TEXT + 1), "yes"], "row 3: label.*2,000,000"),
    ],
)
def test_what_is_no_class_is_named(labels: list[Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        labels_of(frame(labels), frame(labels))


@pytest.mark.parametrize(
    ("first", "second"),
    [("pos", "pos "), ("pos", "Pos"), ("very good", "very  good"), ("pos", "ｐｏｓ"), ("né", "ne\u0301"), ("1", "01"),
     ("pos", "pos\u200b"), ("straße", "STRASSE"), ("2", "²"), ("no", "\xa0no"),
     ("-0", "0"), ("0", "-0.0"), ("True", "1"), ("0", "false"),
     ("3", "\u0663"), ("1", "0" * 50 + "1"), ("1" * 40 + ".0", "1" * 40)],
)  # fmt: skip
def test_labels_that_look_alike_are_refused_in_both_spellings(first: str, second: str, tmp_path: Path) -> None:
    both = frame([first, second, "other"] * 4)
    with pytest.raises(UsageError) as caught:
        labels_of(both, both)
    assert repr(first) in str(caught.value) and repr(second) in str(caught.value)
    with pytest.raises(UsageError) as caught:  # one in each part
        labels_of(frame([first, "other"] * 4), frame([second, "other"] * 4))
    assert repr(first) in str(caught.value) and repr(second) in str(caught.value)
    two = {"a": frame([first, "other"] * 4), "b": frame([second, "other"] * 4)}
    tasks = {name: {"train": data, "test": data} for name, data in two.items()}
    with pytest.raises(UsageError) as caught:  # one in each task of a shared head
        stream(tasks, scenario="dil")
    assert repr(first) in str(caught.value) and repr(second) in str(caught.value)
    assert any(repr(second) in note for note in stream(tasks).notes)


@pytest.mark.parametrize(
    "labels", [[True, 1, False, 0], [True, 0.0], [np.bool_(True), np.int64(1)], ["TRUE", "01", "0"]]
)
def test_truths_beside_numbers_are_refused(labels: list[Any]) -> None:
    with pytest.raises(UsageError, match="may be the same"):
        labels_of(frame(labels * 4), frame(labels))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["pos", "nan"], ["'nan'"]),
        (["pos", "None", "neg"], ["'None'"]),
        (["1", "yes", "no"], ["'1' and 'no'"]),
        ([3, "many"], ["'3' and 'many'"]),
        ([True, 2], ["'2' and 'True'"]),
        (["pos", "pos."], ["'pos' and 'pos.'"]),
        (["very-good", "very_good", "bad"], ["'very-good' and 'very_good'"]),
        (["news;sport", "sport;tech", "news"], ["news;sport", "several labels"]),
        (["news;sport", "sport;tech", "news;tech"], ["'news'", "several labels"]),
        (["a|b", "a|c"], ["'a|b' and 'a|c'", "several labels"]),
        (["Boston, MA", "Salem, ma"], ["'Boston, MA' and 'Salem, ma'"]),
        (["C", "C++", "C#"], []),
        (["-1", "1", "0"], []),
        (["10", "100"], []),
        (["nan"], []),
        (["good, very", "bad; no"], []),
    ],
)
def test_labels_of_which_one_may_be_meant_are_noted(labels: list[Any], words: list[str]) -> None:
    tasks = {"a": {"train": frame(labels * 6), "test": frame(labels)}}
    notes = [note for note in stream(tasks).notes if "label" in note and "one label only" not in note]
    assert all(any(word in note for note in notes) for word in words) and bool(notes) == bool(words)
    if len(labels) == 2 and words and "number" not in notes[0]:  # one in each task of a shared head
        tasks = {str(i): {"train": frame([label, "x y"] * 6), "test": frame([label])} for i, label in enumerate(labels)}
        assert any(words[0] in note for note in stream(tasks, scenario="dil").notes)


def test_other_scripts_and_signs_are_labels() -> None:
    for first, second in (
        ("²", "³"),
        ("+", "-"),
        ("да", "нет"),
        (":)", ":("),
        ("NA", "None"),
        ("-1", "1"),
        ("1e5", "2e3"),
    ):
        assert set(labels_of(frame([first, second] * 4), frame([first, second]))) == {first, second}
    assert alike(["C++", "C", "C#", "c "]) == [["C", "c "]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(10**30), 10**30), min_size=2, max_size=8, unique=True))
def test_numbers_are_sorted_by_value(numbers: list[int]) -> None:
    assert in_order(map(str, numbers)) == tuple(map(str, sorted(numbers)))


def test_numbers_may_be_long() -> None:
    big, bigger = "8" * 5000, "1" + "0" * 5000
    assert labels_of(frame([bigger, big, "9"] * 4), frame([big])) == ["9", big, bigger]


def test_a_value_of_no_dimensions_is_no_list() -> None:
    numbers = [torch.tensor(1), np.array(0), np.array(1.0), torch.tensor(0)] * 4
    assert labels_of(frame(numbers), frame([0, 1])) == ["0", "1"]
    assert labels_of(frame([np.array("no"), "yes"] * 4), frame()) == ["no", "yes"]
    assert labels_of(frame([torch.tensor(True), False] * 4), frame([True])) == ["False", "True"]
    with pytest.raises(UsageError, match=r"row 1: no label .*in 8 of 8 rows"):
        labels_of(frame(), frame([np.array(np.nan), torch.tensor(float("nan"))] * 4))
    with pytest.raises(UsageError, match="multi-label"):
        labels_of(frame(), frame([torch.tensor([1])] * 4))


def test_a_number_may_be_of_any_size() -> None:
    assert labels_of(frame([10**5000, 9, Decimal(8)] * 4), frame([9])) == ["8", "9", "1" + "0" * 5000]


@pytest.mark.parametrize(
    "names", [["2020,2021", "2022"], ["[1]", "[2]"], [1.5, 2.5], [1.0, 2.0], [10**5000, 1], ["0.5"]]
)
def test_a_task_may_have_any_name(names: list[Any]) -> None:
    data = frame([0, 0, 1, 1] * 5).assign(shop=(names * 20)[:20])
    expected = [str(Decimal(name)).removesuffix(".0") if not isinstance(name, str) else name for name in names]
    assert stream(data, task_column="shop", test_size=0.2).task_names == expected
    with pytest.raises(UsageError, match="row 1: task is a list"):
        stream(data.assign(shop=[["x"]] * 20), task_column="shop", test_size=0.2)


def test_a_null_among_integers_makes_no_labels() -> None:
    """pandas then keeps floats."""
    whole, holes = pd.DataFrame(frame()), frame().assign(label=pd.Series([0, 1, *[None, 1] * 9]))
    whole["label"] = [0, 1] * 10
    assert holes["label"].dtype == float
    with pytest.raises(UsageError, match=r"row 3: no label .*in 9 of 20 rows"):
        labels_of(whole, holes)
    assert labels_of(whole, holes.dropna()) == ["0", "1"]
    assert labels_of(holes.dropna(), whole) == ["0", "1"]
    for column in (pd.array([0, 1] * 10, dtype="Int64"), pd.Categorical([0, 1] * 10)):
        assert labels_of(whole, whole.assign(label=column)) == ["0", "1"]


def test_a_file_of_floats_holds_integers(tmp_path: Path) -> None:
    floats = [(text, float(label == "yes")) for text, label in ROWS]
    write(tmp_path, {"a/train.csv": lines([(text, int(label)) for text, label in floats]), "a/test.csv": lines(floats)})
    assert stream(tmp_path).sizes[0]["labels"] == ["0", "1"]
    write(tmp_path, {"a/test.csv": lines([*floats, ("bad cat", 0.5)])})
    with pytest.raises(UsageError, match=r"row 22: label 0\.5 is a real-valued"):
        stream(tmp_path)


def test_parts_of_other_types_share_their_labels(tmp_path: Path) -> None:
    numbers = frame([0, 1] * 10)
    buffer = io.BytesIO()
    numbers.assign(label=numbers["label"].astype("float32")).to_parquet(buffer)
    write(tmp_path, {"a/train.csv": lines([(text, i % 2) for i, (text, _) in enumerate(ROWS)])})
    write(
        tmp_path, {"a/valid.jsonl": numbers.to_json(orient="records", lines=True), "a/test.parquet": buffer.getvalue()}
    )
    assert stream(tmp_path).sizes[0]["labels"] == ["0", "1"]


def test_names_of_classes_are_kept(tmp_path: Path) -> None:
    train, test = classed(["neg", "pos"], [0, 1] * 10), classed(["pos", "neg"], [0, 0, 1])
    benchmark = one_task(train, test)
    assert benchmark.sizes[0]["labels"] == ["neg", "pos"]
    assert list(benchmark.test_stream[0].dataset.targets) == [1, 1, 0]
    test.to_parquet(tmp_path / "test.parquet")
    assert list(one_task(train, tmp_path / "test.parquet").test_stream[0].dataset.targets) == [1, 1, 0]
    shuffled = train.shuffle(seed=1).select(range(6))
    expected = list(shuffled["label"])
    assert list(one_task(train, shuffled).test_stream[0].dataset.targets) == expected
    tasks = {"a": {"train": train, "test": train}, "b": {"train": classed(["pos", "neg"], [0, 1] * 10), "test": test}}
    both = stream(tasks, scenario="dil")
    assert both.n_classes == [2, 2] and list(both.test_stream[1].dataset.targets) == [1, 1, 0]


def test_names_of_classes_within_objects_are_kept(tmp_path: Path) -> None:
    def nested(names: list[str]) -> datasets.Dataset:
        features = datasets.Features(
            {
                "text": datasets.Value("string"),
                "meta": {
                    "label": datasets.ClassLabel(names=names),
                    "more": {"label": datasets.ClassLabel(names=names)},
                },
                "tags": datasets.Sequence(datasets.ClassLabel(names=names)),
            }
        )
        objects = [{"label": i % 2, "more": {"label": i % 2}} for i in range(20)]
        columns = {"text": list(frame()["text"]), "meta": objects, "tags": [[0, 1]] * 20}
        return datasets.Dataset.from_dict(columns, features=features)

    first, second = nested(["neg", "pos"]), nested(["pos", "neg"])
    second.to_parquet(tmp_path / "b.parquet")
    for column in ("meta.label", "meta.more.label"):
        for other in (second, tmp_path / "b.parquet", second.with_format("torch")):
            tasks = {"a": {"train": first, "test": first}, "b": {"train": second, "test": other}}
            benchmark = stream(tasks, scenario="dil", label_column=column)
            assert benchmark.sizes[1]["labels"] == ["neg", "pos"]
            assert list(benchmark.test_stream[0].dataset.targets) == [0, 1] * 10
            assert list(benchmark.test_stream[1].dataset.targets) == [1, 0] * 10
    plain = first.remove_columns("meta").add_column("meta.label", ["no", "yes"] * 10)
    assert labels_of(plain, plain, label_column="meta.label") == ["no", "yes"]


@pytest.mark.parametrize("hidden", [-1, None])
def test_hidden_labels_are_refused(hidden: int | None) -> None:
    with pytest.raises(UsageError, match="label"):
        one_task(classed(["neg", "pos"], [0, 1] * 10), classed(["neg", "pos"], [hidden] * 4))
    with pytest.raises(UsageError, match="hidden" if hidden else "no label"):
        one_task(frame([0, 1] * 10), frame([hidden] * 4))


def test_labels_that_training_lacks_are_named_once() -> None:
    with pytest.raises(UsageError, match=r"row 3: label 'maybe' does not occur in training, nor do 'never'"):
        one_task(frame(), frame(["no", "yes", "maybe", "never", "maybe"]))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("12345"), min_size=1, max_size=5, unique=True), min_size=1, max_size=4),
    st.booleans(),
)
def test_one_head_has_the_labels_of_all_tasks_by_name(sets: list[list[str]], numbers: bool) -> None:
    names = dict(zip("12345", "12345" if numbers else ("e", "d", "c", "b", "a"), strict=True))
    labels = [[names[key] for key in found] for found in sets]
    tasks = {f"t{i}": {"train": frame(own * 2), "test": frame(own)} for i, own in enumerate(labels)}
    joined = {frozenset(labels[0])}
    for own in labels[1:]:
        touching = [group for group in joined if group & set(own)]
        joined = (joined - set(touching)) | {frozenset(own).union(*touching)}
    if len(joined) > 1:
        with pytest.raises(UsageError, match="share the meaning"):
            stream(tasks, scenario="dil")
        return
    benchmark = stream(tasks, scenario="dil")
    head = sorted(set().union(*labels))
    assert benchmark.n_classes == [len(head)] * len(labels)
    for experience, own in zip(benchmark.test_stream, labels, strict=True):
        assert list(experience.dataset.targets) == [head.index(label) for label in own]
        assert experience.classes_in_this_experience == list(range(len(head)))


def test_names_of_tasks_may_be_classes_too() -> None:
    data = classed(["neg", "pos"], [0, 1] * 10)
    data = data.add_column("shop", [0] * 10 + [1] * 10).cast_column("shop", datasets.ClassLabel(names=["x", "y"]))
    assert stream(data, task_column="shop", test_size=2).task_names == ["x", "y"]


def test_numbers_matched_by_name_are_told() -> None:
    tasks = {str(i): {"train": frame(own * 4), "test": frame(own)} for i, own in enumerate([[0, 1], [0, 1, 2]])}
    assert any("matched by name" in note for note in stream(tasks, scenario="dil").notes)
    assert not any("matched by name" in note for note in stream(tasks).notes)


def test_nearly_the_same_labels_of_one_head_are_noted() -> None:
    labels = {"a": ["positive", "negative"], "b": ["postive", "negative"]}

    def notes(tasks: str, scenario: str) -> list[str]:
        data = {task: {"train": frame(labels[task] * 4), "test": frame(labels[task])} for task in tasks}
        return [note for note in stream(data, scenario=scenario).notes if "'positive' and 'postive'" in note]

    assert len(notes("ab", "dil")) == 1 and "different tasks" in notes("ab", "dil")[0]
    assert not notes("ab", "til")
    labels["b"] = ["postive", "neutral"]
    assert len(notes("ab", "cil")) == 1
