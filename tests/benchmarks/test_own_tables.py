"""Files of rows: what is written is what is read, and what cannot be read is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpcl.benchmarks.folder._formats import parse
from nlpcl.benchmarks.folder._options import FolderOptions
from nlpcl.benchmarks.folder._tables import RawTable
from nlpcl.errors import UsageError
from tests.helpers.messages import refused
from tests.helpers.own_data import ROWS, lines, one_task, stream, write

# All that a file can hold: no halves of characters, no NUL.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)
LABEL = st.sampled_from(["no", "yes", "may be"])


def table(text: str | bytes, name: str = "train.csv", **form: Any) -> RawTable:
    return parse(text if isinstance(text, bytes) else text.encode(), Path(name), FolderOptions(**form))


def rows_of(found: RawTable) -> list[tuple[Any, ...]]:
    return list(zip(*(found.values(i) for i in range(len(found.columns))), strict=True))


def lines_of(count: int, breaks: list[int]) -> list[int]:
    """Where rows begin of which row i holds `breaks[i]` line breaks; line 1 is the header."""
    found, line = [], 2
    for i in range(count):
        found.append(line)
        line += 1 + breaks[i]
    return found


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, LABEL), min_size=1), st.sampled_from(",;|"), st.booleans())
def test_csv_keeps_every_text(data: list[tuple[str, str]], separator: str, all_quoted: bool) -> None:
    file = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    csv.writer(file, delimiter=separator, lineterminator="\n", quoting=quoting).writerows([("text", "label"), *data])
    try:
        found = table(file.getvalue(), separator=separator)
    except UsageError:
        # A text over several lines, one of which reads as a row with its label; or one that the writer should quote.
        swallows = any(separator in text and "\n" in text for text, _ in data)
        assert swallows or (not all_quoted and any("\r" in text for text, _ in data))
        return
    assert rows_of(found) == data
    assert list(found.rows) == lines_of(len(data), [text.count("\n") for text, _ in data])


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT.filter(lambda text: not set(text) & set("\t\n\r")), LABEL), min_size=1), st.booleans())
def test_tsv_knows_no_quotation_marks(data: list[tuple[str, str]], crlf: bool) -> None:
    text = lines(data, "\t")
    found = table(text.replace("\n", "\r\n") if crlf else text, "train.tsv")
    assert rows_of(found) == data and list(found.rows) == list(range(2, len(data) + 2))


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, LABEL), min_size=1), st.booleans())
def test_json_keeps_every_text(data: list[tuple[str, str]], plain: bool) -> None:
    records = [{"text": text, "label": label} for text, label in data]
    one_a_line = "\n".join(json.dumps(record, ensure_ascii=plain) for record in records)
    assert rows_of(table(one_a_line, "train.jsonl")) == data
    assert rows_of(table(json.dumps(records, ensure_ascii=plain, indent=1), "train.json")) == data
    assert rows_of(table(gzip.compress(one_a_line.encode(), mtime=0), "train.jsonl.gz")) == data


@settings(deadline=None)
@given(
    st.integers(0, 19),
    st.sampled_from(["csv", "tsv"]),
    st.sampled_from(["one field", "one field too many", "one more of two"]),
)
def test_a_row_with_other_fields_is_named(row: int, suffix: str, how: str) -> None:
    separator = "," if suffix == "csv" else "\t"
    text = lines(ROWS, separator).splitlines()
    text[row + 1] = {
        "one field": "good cat",
        "one field too many": separator.join(["good", "cat", "no"]),
        "one more of two": separator.join(["good cat", "no", ""]),
    }[how]
    with pytest.raises(UsageError, match=rf"train\.{suffix}, row {row + 2}: \d field"):
        table("\n".join(text), f"train.{suffix}")


def test_a_quotation_mark_swallows_no_row(tmp_path: Path) -> None:
    """GLUE's files and most corpora's .tsv hold marks that open and close nothing."""
    rows = [*ROWS]
    rows[2], rows[5] = ('"quoted start and no end', "no"), ('ends with a quote "', "yes")
    assert rows_of(table(lines(rows, "\t"), "train.tsv")) == rows
    with pytest.raises(UsageError, match="row 4"):
        table(lines(rows))
    first = [(label, text) for text, label in rows]
    with pytest.raises(UsageError, match="row 4"):
        table(lines(first, header=("label", "text")))
    with pytest.raises(UsageError, match=r"row 4.*nothing closes"):
        table(lines(rows[:5]))
    with pytest.raises(UsageError, match="row 4"):  # two neighbours
        table(lines([*rows[:3], rows[5], *rows[3:5], *rows[6:]]))
    with pytest.raises(UsageError, match=r"row 2.*doubled"):
        table('text,label\n"good" cat,no\n')


def test_rows_over_several_lines_are_counted_by_their_first(tmp_path: Path) -> None:
    text = 'text,label\n"good\ncat, a",no\n\n"a ""cat""\r\n",yes\nbad,no\n'
    found = table(text)
    assert rows_of(found) == [("good\ncat, a", "no"), ('a "cat"\r\n', "yes"), ("bad", "no")]
    assert list(found.rows) == [2, 5, 7]
    with pytest.raises(UsageError, match="row 8: no label"):
        one_task(write(tmp_path, {"a.csv": text + "x,\n"}) / "a.csv", write(tmp_path, {"b.csv": text}) / "b.csv")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_lone_carriage_return_is_named(suffix: str) -> None:
    separator = "," if suffix == "csv" else "\t"
    text = lines(ROWS, separator)
    with pytest.raises(UsageError, match="row 4: a lone carriage return"):
        table(text.replace("cat 2", "cat\r2"), f"train.{suffix}")
    with pytest.raises(UsageError, match="row 1: a lone carriage return"):
        table(text.replace("\n", "\r"), f"train.{suffix}")
    assert rows_of(table(text.replace("\n", "\r\n"), f"train.{suffix}")) == ROWS


def test_a_text_may_be_long() -> None:
    long = "cat " * 100_000
    assert rows_of(table(f'text,label\n"{long}",no\n')) == [(long, "no")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.csv", b"", ["empty"]),
        ("train.csv", b"text;label\ngood;no\n", ["separator=;"]),
        ("train.csv", b"text\tlabel\ngood\tno\n", ["separator=tab"]),
        ("train.csv", b"text,label\ngood\xff,no\n", ["line 2", "encoding="]),
        ("train.csv", "text,label\ngood,no\n".encode("utf-16"), ["encoding=utf-16"]),
        ("train.csv", "text,label\ngood,no\n".encode("utf-16-le"), ["NUL", "encoding=utf-16"]),
        ("train.csv.gz", gzip.compress(b"text,label\ngood,no\n", mtime=0)[:-5], ["damaged"]),
        ("train.csv.gz", b"text,label\n", ["damaged"]),
        ("train.csv", gzip.compress(b"text,label\n", mtime=0), [".gz"]),
        ("train.jsonl", gzip.compress(b"{}\n", mtime=0), [".gz"]),
        ("train.csv", b"PK\x03\x04...", ["Excel"]),
        ("train.tsv", b"PAR1\x15...", [".parquet"]),
        ("train.parquet", b"PAR1 and no more", ["Parquet"]),
        ("train.jsonl", b'{"text": "good", "label": "no"}\n[1]\n', ["row 2", "object"]),
        ("train.jsonl", b'{"text": "good", "text": "bad", "label": "no"}\n', ["line 1", "'text' twice"]),
        ("train.jsonl", b'{"a": {"b": 1, "b": 2}}\n', ["line 1", "'b' twice"]),
        ("train.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", ["line 1", "not JSON"]),
        ("train.jsonl", b"[" * 100_000 + b"\n", ["line 1", "nested"]),
        ("train.json", b'[{"text": "a"},\n{"text": }]', ["line 2", "not JSON"]),
        ("train.json", b'{"text": ["a"]}', ["list of objects"]),
        ("train.txt", b"text,label\n", ["must end with .csv"]),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name: str, content: bytes, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        table(content, name)
    assert all(word in str(caught.value) for word in [name, *words])


def test_separator_and_encoding(tmp_path: Path) -> None:
    rows = [("der Käse; gut", "schön"), ("x", "nein")]
    text = 'text;label\n"der Käse; gut";schön\nx;nein\n'
    assert rows_of(table(text.encode("latin-1"), separator=";", encoding="latin-1")) == rows
    assert rows_of(table(text.encode("utf-16"), separator=";", encoding="utf-16")) == rows
    for encoding in (None, "utf-8", "UTF8"):
        assert rows_of(table(b"\xef\xbb\xbf" + text.encode(), separator=";", encoding=encoding)) == rows
        assert table(b"\xef\xbb\xbf" + text.encode(), separator=";", encoding=encoding).columns[0] == "text"
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        assert table(("\ufeff" + text).encode(encoding), separator=";", encoding=encoding).columns[0] == "text"
    for separator in ("tab", "\t", r"\t"):
        assert rows_of(table(lines(ROWS, "\t"), separator=separator)) == ROWS
    for wrong in (
        {"separator": "ab"},
        {"separator": ""},
        {"separator": '"'},
        {"encoding": "klingon"},
        {"encoding": "hex"},
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            FolderOptions(**wrong)


def test_lines_of_objects_may_be_called_json() -> None:
    text = "\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS)
    assert rows_of(table(text, "train.json")) == ROWS


def test_fields_of_objects_are_columns(tmp_path: Path) -> None:
    records = [{"doc": {"body": {"text": text}}, "gold": {"label": label}, "a.b": 1} for text, label in ROWS]
    file = "".join(json.dumps(record) + "\n" for record in records)
    buffer = io.BytesIO()
    pd.DataFrame(records).to_parquet(buffer)
    write(tmp_path, {"a/train.jsonl": file, "a/test.parquet": buffer.getvalue()})
    columns = {"text_column": "doc.body.text", "label_column": "gold.label"}
    assert stream(tmp_path, **columns).sizes[0]["labels"] == ["no", "yes"]
    with pytest.raises(UsageError, match=r"doc\.body.*text"):
        stream(tmp_path, **{**columns, "text_column": "doc.body.txt"})
    with pytest.raises(UsageError, match=r"row 21: no label"):
        write(tmp_path, {"a/train.jsonl": file + json.dumps({"doc": records[0]["doc"], "gold": None}) + "\n"})
        stream(tmp_path, **columns)


def test_doubled_marks_of_a_tsv_file_are_told(tmp_path: Path) -> None:
    write(tmp_path, {"a/train.tsv": lines([*ROWS, ('"a ""cat"""', "no")], "\t"), "a/test.csv": lines(ROWS)})
    assert any('""' in note and "train.tsv" in note for note in stream(tmp_path).notes)


def parquet(columns: Mapping[str, Any], described: Any = None) -> bytes:
    """A file with the description that `datasets` writes."""
    data = pyarrow.table(columns)
    if described is not None:
        data = data.replace_schema_metadata({"huggingface": json.dumps(described)})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(data, buffer)
    return buffer.getvalue()


TEXTS_AND_LABELS = {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}


@pytest.mark.parametrize(
    "described",
    [
        {"info": None},
        {"info": {"features": None}},
        {"info": {"features": {"toks": [{"dtype": "string", "_type": "Value"}], "text": {"_type": "Value"}}}},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": None, "num_classes": 2}}}},
        {"info": {"features": ["text"]}},
        [1],
    ],
)
def test_a_parquet_file_may_be_described_in_any_way(described: Any) -> None:
    found = table(parquet({**TEXTS_AND_LABELS, "toks": [["a"]] * 20}, described), "train.parquet")
    assert [row[:2] for row in rows_of(found)] == ROWS


@pytest.mark.parametrize("names", [3, {"0": "no", "1": "yes"}, [["no"], ["yes"]], [None, "yes"], "no"])
def test_class_names_of_parquet_must_be_texts(names: Any) -> None:
    described = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    with refused("train.parquet label"):
        table(parquet({**TEXTS_AND_LABELS, "label": [0, 1] * 10}, described), "train.parquet")


def test_a_description_of_parquet_that_is_nested_deeply() -> None:
    data = pyarrow.table(TEXTS_AND_LABELS).replace_schema_metadata({"huggingface": "[" * 100_000})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(data, buffer)
    with refused("train.parquet nested"):
        table(buffer.getvalue(), "train.parquet")


@pytest.mark.parametrize("encoding", ["idna", "punycode", "undefined", "rot13"])
def test_encodings_of_no_text_are_refused(encoding: str) -> None:
    with refused("encoding"):
        FolderOptions(encoding=encoding)


def test_a_parquet_value_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    not_utf8 = pyarrow.array([b"\xff"] * 20, pyarrow.binary()).cast(pyarrow.string(), safe=False)
    far = pyarrow.array([2**62] * 20, pyarrow.int64()).cast(pyarrow.timestamp("ms"))
    good = write(tmp_path, {"good.csv": lines(ROWS)}) / "good.csv"
    for i, (column, values) in enumerate([("text", not_utf8), ("label", not_utf8), ("label", far)]):
        write(tmp_path, {f"{i}.parquet": parquet({**TEXTS_AND_LABELS, column: values})})
        with pytest.raises(UsageError, match=column):
            one_task(good, tmp_path / f"{i}.parquet")
        # A column that is not read may hold anything.
        other = {**TEXTS_AND_LABELS, "other": values}
        write(tmp_path, {f"other{i}.parquet": parquet(other)})
        assert one_task(good, tmp_path / f"other{i}.parquet").sizes[0]["test"] == 20


def test_a_parquet_column_that_is_not_read_may_be_there_twice(tmp_path: Path) -> None:
    arrays = [pyarrow.array(TEXTS_AND_LABELS["text"]), pyarrow.array(TEXTS_AND_LABELS["label"])]
    for names in (["text", "label", "id", "id"], ["text", "label", "text", "id"]):
        pyarrow.parquet.write_table(pyarrow.table([*arrays, *arrays], names=names), tmp_path / "a.parquet")
        if names.count("text") == 1:
            assert one_task(tmp_path / "a.parquet", tmp_path / "a.parquet").sizes[0]["test"] == 20
        else:
            with pytest.raises(UsageError, match="'text' is there twice"):
                one_task(tmp_path / "a.parquet", tmp_path / "a.parquet")
