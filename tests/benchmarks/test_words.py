"""Word vectors: the formats they are read from, the words of a text, and vectors trained on the first task alone."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlpcl.benchmarks import text_benchmark_from_tasks, words
from nlpcl.benchmarks._files.cache import cache_key, fingerprint
from nlpcl.benchmarks._tokens import tokenize
from nlpcl.benchmarks.words import Words, read_vectors, split_words, train_vectors
from nlpcl.config.files import sha256
from nlpcl.errors import UsageError
from tests.helpers.messages import mentions, refused
from tests.helpers.text_tasks import make_tasks

gensim = pytest.importorskip("gensim")

NAMES = ("the", "bad", "cat", "don't", "naïve")
VALUES = np.arange(15, dtype=np.float32).reshape(5, 3) - 7.25


def rows(names: tuple[str, ...] = NAMES) -> str:
    return "".join(f"{name} {' '.join(map(str, row))}\n" for name, row in zip(names, VALUES, strict=True))


def write(folder: Path, form: str) -> Path:
    file = folder / {"binary": "v.bin", "gzip": "v.txt.gz", "fasttext": "v.vec"}.get(form, "v.txt")
    binary = b"".join(name.encode() + b" " + row.tobytes() for name, row in zip(NAMES, VALUES, strict=True))
    content = {
        "glove": rows().encode(),
        "gzip": gzip.compress(rows().encode()),
        "word2vec": b"5 3\n" + rows().encode(),
        "fasttext": b"5 3\n" + rows().replace("\n", " \n").encode(),
        "binary": b"5 3\n" + binary,
        "twice": b"6 3\n" + rows().encode() + b"bad 9 9 9\n",
    }[form]
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("form", ["glove", "gzip", "word2vec", "fasttext", "binary", "twice"])
def test_every_format_gives_the_same_words_in_the_files_order(form: str, tmp_path: Path) -> None:
    file = write(tmp_path, form)
    found = read_vectors(file)
    assert found.words == NAMES
    assert torch.equal(found.matrix, torch.cat([torch.zeros(2, 3), torch.from_numpy(VALUES)]))
    assert found.source == {"name": file.name, "sha256": sha256(file), "words": 5, "dimensions": 3}
    tokenizer = found.tokenizer()
    assert tokenizer.pad_token_id == 0 and tokenizer.unk_token_id == 1
    assert tokenizer(["The bad, bad cat; don’t: Naïve dogs"])["input_ids"] == [[2, 3, 3, 4, 5, 6, 1]]


def fasttext_file(folder: Path) -> tuple[Path, Any]:
    """A binary file as fastText writes it, and the model in it."""
    from gensim.models.fasttext import FastText, save_facebook_model

    sentences = [["good", "cat"], ["bad", "cat"], ["good", "dog"]] * 4
    model = FastText(sentences, vector_size=6, min_count=1, bucket=50, epochs=1, workers=1, seed=0)
    save_facebook_model(model, str(folder / "model.bin"))
    return folder / "model.bin", model


def test_fasttext_s_binary_format(tmp_path: Path) -> None:
    file, model = fasttext_file(tmp_path)
    found = read_vectors(file)
    assert set(found.words) == {"good", "bad", "cat", "dog"}
    for i, word in enumerate(found.words, start=2):
        np.testing.assert_allclose(found.matrix[i].numpy(), model.wv[word], rtol=1e-5, atol=1e-7)
    cut = tmp_path / "cut.bin"
    for length in (4, 20, 200, file.stat().st_size // 2):
        cut.write_bytes(file.read_bytes()[:length])
        with refused("cut.bin"):
            read_vectors(cut)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "counts"),
        (b"text,label\ngood food,1\n", "counts"),
        (b"one two three\nfour five six\n", "counts"),
        (b"5 3\n" + rows().encode()[:-30], "ValueError"),
        (b"9 3\n" + rows().encode(), "EOFError"),
        (rows().encode() + b"short 1.0 2.0\n", "ValueError"),
        (b"\x1f\x8bnot gzip", "v.txt.gz"),
        (b"5 3\nthe \x01\x02", "EOFError"),
        (b"99999999999 99999999\nthe 1.0\n", "99999999999"),
        (rows().replace("-7.25", "nan").encode(), "finite"),
    ],
)
def test_another_format_is_one_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / ("v.txt.gz" if content[:2] == b"\x1f\x8b" else "v.txt")
    file.write_bytes(content)
    with refused(f"{file} {words}"):
        read_vectors(file)


def test_a_missing_file_and_a_missing_gensim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nowhere.txt", str(tmp_path)):
        with refused("--model"):
            read_vectors(name)
    monkeypatch.setitem(sys.modules, "gensim", None)
    for call in (lambda: read_vectors(write(tmp_path, "glove")), lambda: train_vectors(["a"], "t")):
        with refused("nlpcl[vectors]"):
            call()


def test_the_words_of_a_text() -> None:
    assert split_words("Don’t 'Good' well-known… I'd!!\t“x”\n$5 dogs' a_b ''") == (
        ["don't", "good", "well", "known", "i'd", "x", "5", "dogs", "a", "b"]
    )
    assert split_words(" !? ") == ["[UNK]"]


def test_pairs_are_one_text_or_the_second_alone(tmp_path: Path) -> None:
    (task,) = make_tasks((2,), n=4)
    frame = task.train.assign(text="the cat", text_pair=["bad", "", "?", "bad cat " * 9])
    tokenizer = read_vectors(write(tmp_path, "glove")).tokenizer()
    both = tokenize(tokenizer, *Words(pairs="both").columns(frame), 8)
    assert both[:, 0].tolist() == [[2, 4, 3, *[0] * 5], [2, 4, 1, *[0] * 5], [2, 4, 1, *[0] * 5], [2, 4, *[3, 4] * 3]]
    assert both[:, 1].sum(dim=1).tolist() == [3, 3, 3, 8]
    assert not both[:, 2].any()
    second = tokenize(tokenizer, *Words(pairs="second").columns(frame), 8)
    assert second[:, 0].tolist() == [[3, *[0] * 7], [1, *[0] * 7], [1, *[0] * 7], [3, 4] * 4]
    assert Words(pairs="second").columns(frame.drop(columns="text_pair")) == (["the cat"] * 4, None)


def test_the_cache_tells_vocabularies_apart(tmp_path: Path) -> None:
    file = write(tmp_path, "glove")
    tokenizers = [read_vectors(file).tokenizer(), read_vectors(file).tokenizer()]
    file.write_text(rows(tuple(reversed(NAMES))))
    tokenizers.append(read_vectors(file).tokenizer())
    one, same, other = (cache_key(fingerprint(tokenizer), 8, ["the cat"], None) for tokenizer in tokenizers)
    assert one == same != other


@pytest.mark.parametrize(
    ("pairs", "first"), [("both", lambda t: t["text"] + " " + t["text_pair"]), ("second", lambda t: t["text_pair"])]
)
def test_training_sees_the_first_tasks_training_text_alone(
    pairs: Any, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = make_tasks((2, 2))
    seen: list[list[str]] = []
    train = train_vectors
    monkeypatch.setattr(words, "train_vectors", lambda texts, task: (seen.append(list(texts)), train(texts, task))[1])
    built = [
        text_benchmark_from_tasks(tasks, name="t", scenario="til", tokenizer=Words(pairs=pairs), max_length=16)
        for _ in range(2)
    ]
    assert seen == [first(tasks[0].train).tolist()] * 2
    found = built[0].vectors
    assert set(found.words) == {word for text in seen[0] for word in text.split()}
    assert found.matrix.shape == (2 + len(found.words), 300) and not found.matrix[:2].any()
    assert found.words == built[1].vectors.words and torch.equal(found.matrix, built[1].vectors.matrix)
    assert mentions(found.source["trained_on"], "task0") and "seed=0" in found.source["method"]
    x = built[0].train_stream[0].dataset[0][0]
    assert (x[0][x[1] == 1] > 1).all() and not x[0][x[1] == 0].any()


def test_nothing_to_train_on() -> None:
    with refused("words"):
        train_vectors(["!", "?"], "t")
    with pytest.raises(UsageError):
        text_benchmark_from_tasks([], name="t", scenario="til", tokenizer=Words())
