"""Tokenised text on disk: taken when it is whole, made anew when it is not, never wrong."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.processors import TemplateProcessing

from nlpcl.benchmarks import _tokens as text
from nlpcl.benchmarks._files import cache
from nlpcl.benchmarks._tokens import PackedText, load_tokenizer, smallest
from tests.helpers.disks import largest_file

TEXTS = ["good cat", "the dog is hot", "one two bad"]
PAIRS = ["red sun", "rain", "a blue cat was cold"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "tokens")
    return tmp_path / "tokens"


def pack(tokenizer: Any, texts: list[str], pairs: list[str] | None, targets: list[int], length: int) -> PackedText:
    return text.pack(tokenizer, cache.fingerprint(tokenizer), texts, pairs, targets, length)


def examples(packed: Any) -> torch.Tensor:
    return torch.stack([packed[i][0] for i in range(len(packed))])


def test_second_time_does_not_tokenise(tiny: str, monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    first = examples(pack(tokenizer, TEXTS, PAIRS, [0, 1, 0], 16))
    assert len(list(own_folder.iterdir())) == 1
    monkeypatch.setattr(text, "tokenize", lambda *_: pytest.fail("tokenised again"))
    assert torch.equal(examples(pack(load_tokenizer(tiny), TEXTS, PAIRS, [0, 1, 0], 16)), first)


@pytest.mark.parametrize(
    "other",
    [(TEXTS[::-1], PAIRS, 16), (TEXTS, None, 16), (TEXTS, PAIRS, 24), (["good ca", "tthe dog is hot"], None, 16)],
)
def test_whatever_decides_the_result_decides_the_key(other: Any, tiny: str, encoders: dict[str, str]) -> None:
    tokenizer = load_tokenizer(tiny)
    texts, pairs, length = other
    key = cache.cache_key(cache.fingerprint(tokenizer), length, texts, pairs)
    assert key != cache.cache_key(cache.fingerprint(tokenizer), 16, TEXTS, PAIRS)
    assert key != cache.cache_key(cache.fingerprint(load_tokenizer(encoders["distilbert"])), length, texts, pairs)
    tokenizer("good", max_length=5, truncation=True, padding="max_length")  # leaves traces in the tokenizer
    assert key == cache.cache_key(cache.fingerprint(load_tokenizer(tiny)), length, texts, pairs)
    assert key == cache.cache_key(cache.fingerprint(tokenizer), length, texts, pairs)


def cut_left(tokenizer: Any) -> None:
    tokenizer.truncation_side = "left"


def split_special(tokenizer: Any) -> None:
    tokenizer.split_special_tokens = True


def pad_with_mask(tokenizer: Any) -> None:
    tokenizer.pad_token = "[MASK]"


def no_segments(tokenizer: Any) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]


def no_special_tokens(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])


def lower_nothing(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)


def another_word(tokenizer: Any) -> None:
    tokenizer.add_tokens(["goodness"])


CHANGES = [cut_left, split_special, pad_with_mask, no_segments, no_special_tokens, lower_nothing]
CHANGES += [another_word]


@pytest.mark.parametrize("change", CHANGES)
def test_a_tokenizer_changed_in_place_gets_its_own_ids(change: Callable[[Any], None], tiny: str) -> None:
    """The oracle tokenises without a cache."""
    texts, pairs = ["Good cat [SEP] goodness", "one two"], ["the dog is hot and red and blue", "one"]
    tokenizer = load_tokenizer(tiny)
    before = examples(pack(tokenizer, texts, pairs, [0, 1], 12)).clone()
    change(tokenizer)
    expected = text.tokenize(tokenizer, texts, pairs, 12)
    assert not torch.equal(before, expected)
    assert torch.equal(examples(pack(tokenizer, texts, pairs, [0, 1], 12)), expected)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_files_are_made_anew(damage: str, tiny: str, own_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    first = examples(pack(tokenizer, TEXTS, PAIRS, [0, 1, 0], 16)).clone()
    (file,) = own_folder.iterdir()
    content = file.read_bytes()
    spoilt = {"truncate": content[:-7], "flip": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "empty": b""}
    file.unlink()
    file.write_bytes(spoilt[damage])
    assert torch.equal(examples(pack(tokenizer, TEXTS, PAIRS, [0, 1, 0], 16)), first)
    assert file.read_bytes() == content


def test_a_file_under_the_name_of_another_is_made_anew(tiny: str, own_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    first = examples(pack(tokenizer, TEXTS, PAIRS, [0, 1, 0], 16)).clone()
    (file,) = own_folder.iterdir()
    content = file.read_bytes()
    pack(tokenizer, TEXTS[::-1], PAIRS, [0, 1, 0], 16)
    (other,) = {*own_folder.iterdir()} - {file}
    file.unlink()
    file.write_bytes(other.read_bytes())
    assert torch.equal(examples(pack(tokenizer, TEXTS, PAIRS, [0, 1, 0], 16)), first)
    assert file.read_bytes() == content


def test_where_nothing_can_be_written_it_stays_in_memory(
    tiny: str, own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with largest_file(100):
        packed = pack(load_tokenizer(tiny), TEXTS, PAIRS, [0, 1, 0], 16)
    assert len(packed) == 3 and "too large" in caplog.text
    assert not own_folder.exists()
    own_folder.write_text("a file where the folder should be")
    assert len(pack(load_tokenizer(tiny), TEXTS, PAIRS, [0, 1, 0], 16)) == 3


def _prepare(folder: str, tokenizer: str, sums: Any) -> None:
    cache.cache_folder = lambda: Path(folder)
    sums.put(int(examples(pack(load_tokenizer(tokenizer), TEXTS * 50, None, [0] * 150, 16)).sum()))


def test_two_processes_at_once(tiny: str, own_folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    sums: Any = context.Queue()
    processes = [context.Process(target=_prepare, args=(str(own_folder), tiny, sums)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [sums.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] > 0
    assert len(list(own_folder.iterdir())) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=5), st.integers(8, 40))
def test_packed_text_is_the_tokenizers_own_output(tiny: str, rows: list[tuple[str, str]], length: int) -> None:
    tokenizer = load_tokenizer(tiny)
    texts, pairs = [row[0] for row in rows], [row[1] for row in rows]
    packed = pack(tokenizer, texts, pairs, [0] * len(rows), length)
    for i, (a, b) in enumerate(rows):
        own = tokenizer([a], [b], max_length=length, padding="max_length", truncation="longest_first")
        (ids,), (mask,), (segments,) = own["input_ids"], own["attention_mask"], own["token_type_ids"]
        assert packed[i][0].tolist() == [ids, mask, segments]
        assert packed.lengths[i] == sum(mask)


def test_ids_take_the_smallest_type() -> None:
    assert smallest(torch.tensor([2**15 - 1])).dtype == torch.int16
    assert smallest(torch.tensor([2**15])).tolist() == [2**15]
