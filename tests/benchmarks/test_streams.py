"""DSC, NLI, Newsgroups and SSC: sizes, labels, orders and splits on the real files, or on files of their format."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nlpcl.benchmarks import DSC, NLI, SSC, Newsgroups
from nlpcl.benchmarks._files.published import published_orders
from nlpcl.benchmarks.text import newsgroups as newsgroups_module
from nlpcl.benchmarks.text.newsgroups import TOPICS, body
from nlpcl.cli import main
from nlpcl.registry import benchmarks
from tests.helpers.messages import mentions, refused
from tests.helpers.own_data import Blank

# train (positive, negative), test (positive, negative), where they are not 4000 (2000, 2000) and 500 (250, 250).
DSC_SIZES = {
    "Automotive": ((2000, 918), (250, 115)),
    "Musical_Instruments": ((2000, 374), (250, 47)),
    "Patio_Lawn_and_Garden": ((2000, 952), (250, 119)),
}
NLI_SIZES = {"fiction": (3836, 995), "government": (3883, 1016), "slate": (4026, 1002), "telephone": (4270, 1005),
             "travel": (3985, 982)}  # fmt: skip
# Messages of each topic: train and validation together, test.
NEWS_SIZES = {
    "alt.atheism": (480, 319), "comp.graphics": (584, 389), "comp.os.ms-windows.misc": (591, 394),
    "comp.sys.ibm.pc.hardware": (590, 392), "comp.sys.mac.hardware": (578, 385), "comp.windows.x": (593, 395),
    "misc.forsale": (585, 390), "rec.autos": (594, 396), "rec.motorcycles": (598, 398),
    "rec.sport.baseball": (597, 397), "rec.sport.hockey": (600, 399), "sci.crypt": (595, 396),
    "sci.electronics": (591, 393), "sci.med": (594, 396), "sci.space": (593, 394),
    "soc.religion.christian": (599, 398), "talk.politics.guns": (546, 364), "talk.politics.mideast": (564, 376),
    "talk.politics.misc": (465, 310), "talk.religion.misc": (377, 251),
}  # fmt: skip


def counts(experience: Any) -> dict[int, int]:
    return dict(Counter(int(label) for label in experience.dataset.targets))


@pytest.mark.parametrize(("name", "key"), [("dsc", "dsc_10"), ("dsc_24", "dsc_24"), ("ssc", "ssc_10"),
                                           ("newsgroups", "newsgroup_10"), ("nli", "nli_5")])  # fmt: skip
def test_orders_are_the_published_ones(name: str, key: str, data_root: Path) -> None:
    published = data_root.parent / "task_orders.json"
    if not published.is_file():
        pytest.skip("task_orders.json is not beside the data")
    assert published_orders(name) == json.loads(published.read_text())[key]


def test_dsc_has_its_published_sizes(data_root: Path) -> None:
    benchmark = DSC("dil", 0, domains=24, tokenizer=Blank(), max_length=8, root=data_root)
    assert len(benchmark.task_names) == 24 and len(benchmark.files) == 72
    for i, name in enumerate(benchmark.task_names):
        train, test = DSC_SIZES.get(name, ((2000, 2000), (250, 250)))
        assert counts(benchmark.train_stream[i]) == {1: train[0], 0: train[1]}
        assert counts(benchmark.valid_stream[i]) == {1: 250, 0: 250}
        assert counts(benchmark.test_stream[i]) == {1: test[0], 0: test[1]}


def test_dsc_ten_domains_and_small_version(data_root: Path, tiny: str) -> None:
    benchmark = DSC("til", 0, tokenizer=tiny, max_length=8, train_size=200, root=data_root)
    assert benchmark.task_names == published_orders("dsc")[0]
    assert [size["train"] for size in benchmark.sizes] == [200] * 10
    named = DSC("til", ["Books", "Beauty"], tokenizer=tiny, max_length=8, train_size=8, root=data_root)
    assert named.task_names == ["Books", "Beauty"]


def test_nli_filters_genres_and_cuts_nine_tenths(data_root: Path) -> None:
    benchmark = NLI("dil", 0, tokenizer=Blank(), max_length=8, root=data_root)
    assert benchmark.task_names == published_orders("nli")[0]
    for size in benchmark.sizes:
        train, test = NLI_SIZES[size["name"]]
        assert (size["train"], size["valid"], size["test"]) == (train * 9 // 10, train - train * 9 // 10, test)
    fiction = benchmark.task_names.index("fiction")
    assert counts(benchmark.test_stream[fiction]) == {1: 347, 0: 305, 2: 343}
    assert benchmark.n_classes == [3] * 5


def test_nli_puts_the_hypothesis_first_unless_told(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "nli").mkdir()
    rows = ["premise\thypothesis\tlabel\tgenre"]
    rows += [f"red cat\tblue dog\t{label}\ttravel" for label in ("neutral", "entailment", "contradiction", "-") * 10]
    for name in ("mnli_train.tsv", "mnli_val.tsv"):
        (tmp_path / "nli" / name).write_text("\n".join(rows) + "\n")
    first = {}
    for premise_first in (False, True):
        benchmark = NLI(tokenizer=tiny, max_length=16, tasks=["travel"], premise_first=premise_first, root=tmp_path)
        x, _, _ = benchmark.test_stream[0].dataset[0]
        first[premise_first] = x[0, :3].tolist()
    assert first[True] == [2, 7, 9] and first[False] == [2, 8, 10]  # [CLS] red cat, [CLS] blue dog
    assert benchmark.sizes[0]["test"] == 30  # pairs without a gold label are gone
    (tmp_path / "nli" / "mnli_val.tsv").write_text("a\tb\n1\t2\n")
    with refused("premise"):
        NLI(tokenizer=tiny, root=tmp_path)


def test_newsgroups_keeps_the_official_test_set(data_root: Path) -> None:
    benchmark = Newsgroups("til", 0, tokenizer=Blank(), max_length=8, root=data_root)
    assert benchmark.task_names == published_orders("newsgroups")[0] and benchmark.n_classes == [2] * 10
    for i, name in enumerate(benchmark.task_names):
        k = int(name.partition("_")[2])
        for label, topic in enumerate(TOPICS[2 * k : 2 * k + 2]):
            trained, tested = NEWS_SIZES[topic]
            held = round(trained / 10)
            assert counts(benchmark.train_stream[i])[label] == trained - held
            assert counts(benchmark.valid_stream[i])[label] == held
            assert counts(benchmark.test_stream[i])[label] == tested


def test_newsgroups_class_incremental_has_one_head_of_twenty(data_root: Path, tiny: str) -> None:
    benchmark = Newsgroups("cil", 0, tokenizer=tiny, max_length=8, tasks=3, train_size=20, root=data_root)
    assert benchmark.n_classes == [20] * 3
    for name, experience in zip(benchmark.task_names, benchmark.test_stream, strict=True):
        k = int(name.partition("_")[2])
        assert set(counts(experience)) == {2 * k, 2 * k + 1} == set(experience.classes_in_this_experience)
        assert set(experience.dataset.targets_task_labels) == {0}
    with refused("--scenario"):
        Newsgroups("dil", 0, tokenizer=tiny, max_length=8, tasks=2, train_size=20, root=data_root)


def test_body_starts_after_the_first_empty_line() -> None:
    assert body("From: a\nSubject: b\n\nfirst\n\nsecond") == "first\n\nsecond"


def test_newsgroups_reads_the_public_archive(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for split in ("train", "test"):
            for topic in TOPICS:
                for i in range(10):
                    content = f"Subject: {topic}\n\ncat dog caf\xe9 {i}".encode("latin-1")
                    info = tarfile.TarInfo(f"20news-bydate-{split}/{topic}/{i}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    monkeypatch.delenv("NLPCL_DATA", raising=False)
    monkeypatch.setattr(newsgroups_module, "data_bytes", lambda *_: packed.getvalue())
    (tmp_path / "20newsgroups").mkdir()
    (tmp_path / "20newsgroups" / newsgroups_module.ARCHIVE).write_bytes(packed.getvalue())
    assert Newsgroups(tokenizer=tiny, max_length=8, root=tmp_path).sizes == Newsgroups(tokenizer=tiny).sizes
    benchmark = Newsgroups(tokenizer=tiny, max_length=8)
    assert [size["train"] for size in benchmark.sizes] == [18] * 10
    assert [size["valid"] for size in benchmark.sizes] == [2] * 10


def test_ssc_reads_the_documented_format(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "ssc").mkdir()
    for name in published_orders("ssc")[0]:
        lines = [f"{i % 3}\tgood cat {i}" for i in range(20)]
        (tmp_path / "ssc" / f"{name}.txt").write_text("\n".join([*lines, "# a remark"]) + "\n")
    benchmark = SSC("dil", 0, tokenizer=tiny, max_length=8, root=tmp_path)
    assert len(benchmark.notes) == 10 and mentions(benchmark.notes[0], "ssc/bike.txt 1")
    assert [(s["train"], s["valid"], s["test"]) for s in benchmark.sizes] == [(16, 2, 2)] * 10
    assert counts(benchmark.test_stream[0]) == {0: 1, 1: 1}  # lines 18 and 19
    with refused("ssc --data-root"):
        SSC(tokenizer=tiny)


def test_damaged_files_are_named(tmp_path: Path, tiny: str, data_root: Path) -> None:
    source = data_root / "dsc" / "dat" / "dsc" / "Books_train.tsv.gz"
    (tmp_path / "dsc" / "dat" / "dsc").mkdir(parents=True)
    copy = tmp_path / "dsc" / "dat" / "dsc" / source.name
    copy.write_bytes(source.read_bytes()[:1000])
    with refused("Books_train.tsv.gz"):
        DSC(order=["Books"], tokenizer=tiny, root=tmp_path)
    copy.write_bytes(gzip.compress(b"other\t1\n"))
    with refused("Books_train.tsv"):
        DSC(order=["Books"], tokenizer=tiny, root=tmp_path)


def test_orders_by_seed_and_choices_of_tasks(data_root: Path, tiny: str) -> None:
    def names(order: Any, tasks: Any) -> list[str]:
        return DSC(order=order, tasks=tasks, tokenizer=tiny, max_length=8, train_size=4, root=data_root).task_names

    assert names("seed:3", 3) == names("seed:3", 3) != names("seed:4", 3)
    first = published_orders("dsc")[0]
    assert names(0, [first[4], first[1]]) == [first[1], first[4]]  # the order of the stream counts
    with refused("Kindle_Stor Kindle_Store"):
        names(0, ["Kindle_Stor"])
    with refused("seed:x"):
        names("seed:x", None)


@pytest.mark.parametrize(
    "name", ["asc", "demo", "dsc", "newsgroups", "SplitMNIST", "PermutedMNIST", "mnist", "femnist"]
)
def test_the_sizes_that_info_shows(name: str, data_root: Path) -> None:
    entry = benchmarks.get(name)
    text: dict[str, Any] = {"tokenizer": Blank(), "max_length": 8} if entry.modality == "text" else {}
    stream = entry.target(entry.scenarios[0], 0, root=data_root, **text)
    assert entry.sizes == tuple(sum(size[split] for size in stream.sizes) for split in ("train", "valid", "test"))


def test_data_commands(data_root: Path, capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    root = ["--data-root", str(data_root)]
    assert main(["data", "prepare", "nli", *root, "--model", tiny, "--max-length", "8"]) == 0
    assert "travel" in capsys.readouterr().out
    assert main(["data", "prepare", "femnist", *root]) == 0
    assert "femnist-2" in capsys.readouterr().out
    assert main(["data", "prepare", "dsc", *root, "--set", "domain=24"]) == 2
    assert mentions(capsys.readouterr().err, "domain domains")
    assert main(["data", "verify", "asc", "--data-root", "/nowhere"]) == 2
    assert main(["data", "verify", "celeba", *root]) == 2  # its images are not there
    assert main(["data", "list"]) == 0
    assert "LifelongSentClass" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("benchmark", "scenario", "more"),
    [
        ("dsc", "dil", []),
        ("nli", "til", ["--set", "premise_first=true"]),
        ("newsgroups", "til", []),
        ("newsgroups", "cil", ["--set", "strip_headers=false"]),
    ],
)
def test_streams_train_through_the_command_line(
    benchmark: str, scenario: str, more: list[str], tmp_path: Path, tiny: str, data_root: Path
) -> None:
    command = ["run", "--benchmark", benchmark, "--scenario", scenario, "--strategy", "ncl", "--model", tiny]
    size = ["--tasks", "2", "--train-size", "16", "--epochs", "1", "--max-length", "16", "--eval", "final"]
    where = ["--data-root", str(data_root), "--out", str(tmp_path)]
    assert main([*command, *size, *where, *more]) == 0
    (record,) = tmp_path.glob("*/record.json")
    stored = json.loads(record.read_text())
    assert stored["spec"]["benchmark"] == benchmark and stored["spec"]["scenario"] == scenario
    assert all(0 <= cell <= 1 for cell in stored["matrices"]["accuracy"][1])
