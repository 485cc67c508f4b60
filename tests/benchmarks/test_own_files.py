"""Files of a user's own data: each is read or named, in whatever layout they lie."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlpcl.benchmarks._files.download import data_root
from nlpcl.benchmarks.folder._task_files import files_of
from nlpcl.cli import main
from nlpcl.errors import UsageError, UsageErrors
from tests.helpers.own_data import ROWS, frame, lines, stream, write

CSV = lines(ROWS)
LABELLED = pd.DataFrame(ROWS, columns=["text", "label"])


def parquet(data: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    data.to_parquet(buffer)
    return buffer.getvalue()


# By suffix the same twenty rows.
CONTENTS: dict[str, bytes] = {
    ".csv": CSV.encode(),
    ".csv.gz": gzip.compress(CSV.encode()),
    ".tsv": lines(ROWS, "\t").encode(),
    ".TSV.GZ": gzip.compress(lines(ROWS, "\t").encode()),
    ".jsonl": LABELLED.to_json(orient="records", lines=True).encode(),
    ".jsonl.gz": gzip.compress(LABELLED.to_json(orient="records", lines=True).encode()),
    ".json": LABELLED.to_json(orient="records").encode(),
    ".json.gz": gzip.compress(LABELLED.to_json(orient="records").encode()),
    ".parquet": parquet(LABELLED),
    ".Parquet": parquet(LABELLED),
}
NAMES = {
    "train": ("train", "Train", "TRAIN", "training"),
    "valid": ("valid", "validation", "Dev", "val", "development"),
    "test": ("test", "Test", "testing"),
}
# Neither a part nor a companion.
JUNK = ("train.txt", "notes.csv", "train.old.csv", "test.parquet.gz", "train-00000-of-00001.parquet", "labels.json")
COMPANIONS = ("README.md", "LICENSE", ".DS_Store", "_SUCCESS", "readme.txt", "Thumbs.db", ".train.csv.swp")


@pytest.mark.parametrize("suffix", CONTENTS)
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, {f"a/train{suffix}": CONTENTS[suffix], "a/test.csv": CSV})
    (size,) = stream(tmp_path).sizes
    assert size == {"name": "a", "labels": ["no", "yes"], "train": 18, "valid": 2, "test": 20}


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(
        st.sampled_from(["train", "train", "valid", "test"]).flatmap(
            lambda part: st.tuples(st.just(part), st.sampled_from(NAMES[part]), st.sampled_from(sorted(CONTENTS)))
        ),
        max_size=4,
        unique_by=lambda file: file[1] + file[2],
    ),
    junk=st.lists(st.sampled_from(JUNK), max_size=1),
    companions=st.lists(st.sampled_from(COMPANIONS), max_size=2, unique=True),
)
def test_a_file_is_read_or_named(
    parts: list[tuple[str, str, str]], junk: list[str], companions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("data")
    files: dict[str, str | bytes] = {f"{name}{suffix}": CONTENTS[suffix] for _, name, suffix in parts}
    write(root, {f"a/{name}": content for name, content in files.items()})
    write(root, {f"a/{name}": "x" for name in (*junk, *companions)})
    (root / "a").mkdir(exist_ok=True)
    held = [part for part, _, _ in parts]
    usable = not junk and held.count("train") == held.count("test") == 1 and held.count("valid") <= 1
    if usable:
        benchmark = stream(root)
        expected = {f"a/{name}": hashlib.sha256(content).hexdigest() for name, content in files.items()}
        assert benchmark.files == files_of(root) == expected
        assert benchmark.sizes[0]["valid"] == (20 if "valid" in held else 2)
    else:
        with pytest.raises(UsageError) as caught:
            stream(root)
        for name in junk:
            assert name in str(caught.value)
        for part in ("train", "test"):
            if held.count(part) == 0:
                assert f"no part {part}" in str(caught.value)


@pytest.mark.parametrize("companion", COMPANIONS)
def test_what_accompanies_data_may_lie_beside_them(companion: str, tmp_path: Path) -> None:
    write(tmp_path, {"a/train.csv": CSV, "a/test.csv": CSV, f"a/{companion}": "x", companion: "x"})
    assert stream(tmp_path).task_names == ["a"]


def test_what_is_no_part_is_named(tmp_path: Path) -> None:
    write(
        tmp_path, {"a/train.csv": CSV, "a/test.csv": CSV, "a/more/x.csv": CSV, "beside.csv": CSV, "b/train.csv/x": ""}
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "a" / "valid.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageErrors) as caught:
        stream(tmp_path)
    for word in ("more is a folder", "beside.csv", "train.csv is a folder", "valid.csv leads nowhere", "tasks b, c"):
        assert word in str(caught.value)
    with pytest.raises(UsageErrors, match=r"beside\.csv"):
        files_of(tmp_path)


@pytest.mark.parametrize(
    "hidden", ["_b/train.csv", "_b/x.jsonl.gz", "a/_valid.csv", "_valid.parquet", "a/_old/test.tsv"]
)
def test_an_underscore_hides_no_data(hidden: str, tmp_path: Path) -> None:
    write(tmp_path, {"a/train.csv": CSV, "a/test.csv": CSV, "__MACOSX/._a.csv": "x", "a/_cache/x": "", hidden: CSV})
    with pytest.raises(UsageError, match=next(name for name in hidden.split("/") if name[0] == "_")):
        stream(tmp_path)
    write(tmp_path / "parts", {"train.csv": CSV, "test.csv": CSV, "_old/train.csv": CSV})
    with pytest.raises(UsageError, match="_old"):
        stream(tmp_path / "parts", task_column="shop")


def test_files_of_reads_the_tasks_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {f"{task}/{part}.csv": CSV for task in "ab" for part in ("train", "test")})
    digest = hashlib.sha256(CSV.encode()).hexdigest()
    assert files_of(tmp_path, ["b"]) == {"b/train.csv": digest, "b/test.csv": digest}
    assert files_of(tmp_path, ["b"]) == stream(tmp_path, subset=["b"]).files
    assert files_of(tmp_path / "a" / "train.csv") == {"data.csv": digest}
    with pytest.raises(UsageError, match="unknown task 'c'"):
        files_of(tmp_path, ["c"])
    with pytest.raises(UsageError, match="nowhere"):
        files_of(tmp_path / "nowhere")


def test_a_task_that_is_not_asked_for_is_not_judged(tmp_path: Path) -> None:
    write(tmp_path, {"a/train.csv": CSV, "a/test.csv": CSV, "b/train.csv": "text,label\n,\n"})
    assert stream(tmp_path, subset=["a"]).task_names == ["a"]
    with pytest.raises(UsageError, match="b/train"):
        stream(tmp_path)


def test_all_problems_are_shown_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = "text,label\ngood,\n,yes\n"
    write(tmp_path, {f"t{i:02}/{part}.csv": bad for i in range(15) for part in ("train", "test")})
    with pytest.raises(UsageErrors) as caught:
        stream(tmp_path)
    told = str(caught.value).splitlines()
    assert len(told) == 1 + 20 + 1 and "60 problems" in told[0] and told[-1].strip() == "and 40 more"
    assert main(["data", "prepare", "folder", "--data-root", str(tmp_path)]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 22 and shown[-1].startswith("nlpcl: error:") and "60 problems" in shown[-1]


def test_one_table_holds_all_tasks(tmp_path: Path) -> None:
    data = pd.DataFrame({"review": LABELLED["text"], "stars": LABELLED["label"], "shop": ["x", "y", "y", "x"] * 5})
    write(tmp_path, {"all.csv": data.to_csv(index=False), "parts/train.csv": data.to_csv(index=False)})
    write(tmp_path, {"parts/test.csv": data.to_csv(index=False)})
    columns = {"text_column": "review", "label_column": "stars", "task_column": "shop"}
    for source in (tmp_path / "all.csv", data, data.to_dict("records"), data.to_dict("list")):
        benchmark = stream(source, **columns, test_size=2)
        assert [(size["name"], size["train"], size["valid"], size["test"]) for size in benchmark.sizes] == [
            ("x", 7, 1, 2), ("y", 7, 1, 2)]  # fmt: skip
    for source in (tmp_path / "parts", {"train": data, "test": data}):
        benchmark = stream(source, **columns)
        assert [(size["name"], size["train"], size["valid"], size["test"]) for size in benchmark.sizes] == [
            ("x", 9, 1, 10), ("y", 9, 1, 10)]  # fmt: skip
    with pytest.raises(UsageError, match="task_column"):
        stream(tmp_path / "all.csv")
    with pytest.raises(UsageError, match=r"task_column.*review, stars, shop"):
        stream(data)
    with pytest.raises(UsageError, match="task_column=shop"):
        stream(tmp_path / "all.csv", **{**columns, "task_column": "Shop"}, test_size=2)
    write(tmp_path, {"folders/a/train.csv": CSV})
    with pytest.raises(UsageError, match="task_column"):
        stream(tmp_path / "folders", **columns)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV.GZ", ".parquet"])
def test_a_single_file_may_be_renamed(suffix: str, tmp_path: Path) -> None:
    """A run is known by the same files as its record holds, and these say the format but not the file's name."""
    data, plain = frame().assign(shop=["x", "y", "y", "x"] * 5), suffix.lower().removesuffix(".gz")
    text = data.to_csv(index=False, sep="\t" if plain == ".tsv" else ",").encode()
    content = {".csv": text, ".tsv": text, ".CSV.GZ": gzip.compress(text, mtime=0), ".parquet": parquet(data)}[suffix]
    write(tmp_path, {f"one{suffix}": content, f"other{suffix}": content})
    expected = {f"data{plain}": hashlib.sha256(content).hexdigest()}
    for name in ("one", "other"):
        file = tmp_path / f"{name}{suffix}"
        assert stream(file, task_column="shop", test_size=2).files == files_of(file) == expected


def test_a_row_without_a_task_is_named() -> None:
    data = frame().assign(shop=["x", None, " ", "X", *"xy" * 8])
    with pytest.raises(UsageErrors) as caught:
        stream(data, task_column="shop", test_size=0.5)
    with pytest.raises(UsageError, match="do not print"):
        stream(frame().assign(shop=["x", "a\nb"] * 10), task_column="shop", test_size=0.5)
    assert "row 2: no task" in str(caught.value) and "'x' and 'X'" in str(caught.value)


def test_one_file_runs_from_the_command_line(tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = frame().assign(shop=["x", "y", "y", "x"] * 5).rename(columns={"text": "review"})
    write(tmp_path, {"all.tsv.gz": gzip.compress(data.to_csv(index=False, sep="\t").encode())})
    line = [
        "--data-root",
        str(tmp_path / "all.tsv.gz"),
        "--model",
        tiny,
        "--max-length",
        "8",
        "--set",
        "task_column=shop",
    ]
    line += ["--set", "text_column=review", "--set", "test_size=0.2"]
    assert main(["data", "prepare", "folder", *line, "--scenario", "dil"]) == 0
    told = capsys.readouterr().out
    assert "labels of every task: no, yes" in told and "test_size=0.2" in told
    run = ["run", "--benchmark", "folder", "--strategy", "ncl", "--epochs", "1", "--out", str(tmp_path / "runs")]
    assert main([*run, *line]) == 0
    assert main(["data", "prepare", "folder", *line[:2]]) == 2
    assert "task_column" in capsys.readouterr().err
    assert main(["data", "prepare", "asc", *line[:2]]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"data/a/{part}.csv": CSV for part in ("train", "test")})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/data") == tmp_path / "data"
    assert data_root("~/data/a/train.csv", file=True) == tmp_path / "data" / "a" / "train.csv"
    assert stream("~/data").task_names == ["a"]
    assert stream({"a": "~/data/a", "b": {"train": "~/data/a/train.csv", "test": frame()}}).task_names == ["a", "b"]
    monkeypatch.setenv("NLPCL_DATA", "~/data")
    assert data_root(None) == tmp_path / "data"
    for wrong in ("~/nothing", "~nobody-of-this-name/data", "x" * 5000):
        with pytest.raises(UsageError, match="data root"):
            data_root(wrong, file=True)
