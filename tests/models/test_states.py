"""Token states of a frozen encoder: what is stored, that it is computed once, and that training reads it."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlpcl.models import build_model, precompute, states
from nlpcl.models.encoder import TextEncoder
from nlpcl.strategies.ncl import NCL
from tests.helpers.disks import largest_file
from tests.helpers.messages import mentions, refused


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of states of each test's own."""
    monkeypatch.setattr(states, "states_folder", lambda: tmp_path / "states")
    return tmp_path / "states"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of examples in each pass through an encoder, whose own probes are (B, 3, L)."""
    seen: list[int] = []
    forward = TextEncoder.forward

    def spy(self: TextEncoder, x: torch.Tensor) -> Any:
        if x.shape[1] == 4:
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(TextEncoder, "forward", spy)
    return seen


def everything(benchmark: Any) -> list[torch.Tensor]:
    return [part[i][0] for parts in benchmark.packed.values() for part in parts for i in range(len(part))]


def test_states_are_the_encoder_s_and_of_real_tokens_alone(benchmark_of: Any, tiny: str, own_folder: Path) -> None:
    benchmark = benchmark_of("til", (2, 3))
    before = everything(benchmark)
    table = precompute(benchmark, tiny).table
    (file,) = own_folder.iterdir()
    real = sum(int(x[1].sum()) for x in before)
    assert table.shape == (real, 32) and table.dtype is torch.float16
    assert real * 32 * 2 < file.stat().st_size < real * 32 * 2 + 200
    encoder = TextEncoder(tiny).eval()
    used = []
    for x, old in zip(everything(benchmark), before, strict=True):
        assert torch.equal(x[:3], old)
        n = int(old[1].sum())
        with torch.no_grad():
            alone = encoder(old[None, :, :n])[0][0]
        rows = x[3, :n]
        torch.testing.assert_close(table[rows].float(), alone, atol=2e-3, rtol=1e-3)  # float16 has 11 bits
        assert not x[3, n:].any()
        used += rows.tolist()
    assert sorted(used) == list(range(real))


def test_each_example_passes_once(benchmark_of: Any, tiny: str, passed: list[int]) -> None:
    benchmark = benchmark_of("til", (2, 2))
    precompute(benchmark, tiny)
    assert sum(passed) == len(everything(benchmark))
    del passed[:]
    for seed in range(2):  # epochs, tasks, methods, another benchmark object
        benchmark = benchmark_of("dil", (2, 2))
        precompute(benchmark, tiny)
        torch.manual_seed(seed)
        model = build_model(benchmark, "bert_frozen", tiny, filters=4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        strategy = NCL(model=model, optimizer=optimizer, train_mb_size=8, train_epochs=2)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    assert passed == []


def test_features_are_those_of_the_live_encoder(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    precompute(benchmark, tiny)
    for net in ("cnn", "gru"):
        model = build_model(benchmark, "bert_frozen", tiny, net=net).eval()
        x = torch.stack([benchmark.test_stream[0].dataset[i][0] for i in range(8)])
        stored, live = model(x, 0), model(x[:, :3], 0)
        assert not torch.equal(stored, live)
        torch.testing.assert_close(stored, live, atol=5e-3, rtol=1e-2)


def test_other_backbones_read_the_same_examples(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    precompute(benchmark, tiny)
    model = build_model(benchmark, "bert_adapter", tiny, adapter_size=4).eval()
    x = torch.stack([benchmark.test_stream[0].dataset[i][0] for i in range(8)])
    assert torch.equal(model(x, 0), model(x[:, :3], 0))


def test_parity_keeps_the_encoder_alive(benchmark_of: Any, tiny: str, passed: list[int]) -> None:
    benchmark = benchmark_of("til", (2, 2))
    precompute(benchmark, tiny)
    del passed[:]
    model = build_model(benchmark, "bert_frozen", tiny)
    model.backbone.set_parity()
    x = torch.stack([benchmark.train_stream[0].dataset[i][0] for i in range(8)])
    model.train()(x, 0)
    assert passed == [8]


def test_the_order_of_tasks_changes_no_file(benchmark_of: Any, tiny: str, own_folder: Path) -> None:
    first, second = benchmark_of("til", (2, 3)), benchmark_of("til", (2, 3))
    precompute(first, tiny)
    for parts in second.packed.values():
        parts.reverse()
    precompute(second, tiny)
    assert len(list(own_folder.iterdir())) == 1
    for split in first.packed:
        for a, b in zip(first.packed[split], second.packed[split][::-1], strict=True):
            assert torch.equal(a[0][0], b[0][0])


def test_other_splits_and_tasks_are_left_alone(benchmark_of: Any, tiny: str, passed: list[int]) -> None:
    benchmark = benchmark_of("til", (2, 3))
    precompute(benchmark, tiny, splits=("train", "valid"), tasks=1)
    placed = {split: [part.first is not None for part in parts] for split, parts in benchmark.packed.items()}
    assert placed == {"train": [True, False], "valid": [True, False], "test": [False, False]}
    assert sum(passed) == len(benchmark.packed["train"][0]) + len(benchmark.packed["valid"][0])


def test_another_encoder_or_text_has_another_file(
    benchmark_of: Any, tiny: str, encoders: Any, own_folder: Path
) -> None:
    precompute(benchmark_of("til", (2, 3)), tiny)
    precompute(benchmark_of("til", (2, 3)), encoders["distilbert"])
    precompute(benchmark_of("til", (2, 2, 2)), tiny)
    assert len(list(own_folder.iterdir())) == 3


def with_digest(array: Any, key: str) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    states = hashlib.sha256(content.getvalue()).hexdigest()
    return content.getvalue() + hashlib.sha256(f"{key} {states}".encode()).digest()


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "more", "pickle", "shape", "magic", "header", "value", "last value", "digest", "other"]
)
def test_a_damaged_file_is_made_anew(
    damage: str, benchmark_of: Any, tiny: str, own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = precompute(benchmark_of("til", (2, 2)), tiny).table.clone()
    (file,) = own_folder.iterdir()
    content = file.read_bytes()
    flipped = {"magic": 3, "header": 10, "value": len(content) // 2, "last value": -33, "digest": -1}
    if damage in flipped:
        spoilt = bytearray(content)
        spoilt[flipped[damage]] ^= 1
    else:
        others = {"cut": content[:-10], "empty": b"", "more": content + b"0"}
        others |= {"other": with_digest(np.load(file), "0" * 64)}  # copied from another key
        others |= {
            "pickle": with_digest(np.array([{}], dtype=object), file.stem),
            "shape": with_digest(np.zeros((3, 32), "<f2"), file.stem),
        }
        spoilt = bytearray(others[damage])
    file.unlink()
    file.write_bytes(spoilt)
    assert torch.equal(precompute(benchmark_of("til", (2, 2)), tiny).table, good)
    assert file.read_bytes() == content and mentions(caplog.text, f"{file.name} damaged")


def test_a_whole_file_is_checked_once(
    benchmark_of: Any, tiny: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(benchmark_of("til", (2, 2)), tiny)
    (file,) = own_folder.iterdir()
    monkeypatch.setattr(states, "sha256", lambda *_: pytest.fail("read again"))
    first = file.stat().st_ino
    precompute(benchmark_of("til", (2, 2)), tiny)
    assert file.stat().st_ino == first


@pytest.mark.parametrize("allocates", [True, False])
def test_no_room(
    allocates: bool,
    benchmark_of: Any,
    tiny: str,
    own_folder: Path,
    passed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told before the encoder begins, if the system can take the room, and else when it runs out."""
    if not allocates:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with largest_file(20_000), refused("GB large room XDG_CACHE_HOME"):
        precompute(benchmark_of("til", (2, 2)), tiny)
    assert not own_folder.exists()
    assert bool(passed) != (allocates and hasattr(os, "posix_fallocate"))


def test_a_file_for_which_there_is_no_memory_stays(
    benchmark_of: Any, tiny: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmapped(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    precompute(benchmark_of("til", (2, 2)), tiny)
    (file,) = own_folder.iterdir()
    first = file.stat().st_ino
    monkeypatch.setattr(np, "load", unmapped)
    with pytest.raises(OSError, match="memory"):
        precompute(benchmark_of("til", (2, 2)), tiny)
    assert file.stat().st_ino == first


def test_states_of_another_encoder_are_refused(benchmark_of: Any, tiny: str, encoders: Any) -> None:
    benchmark = benchmark_of("til", (2, 2))
    precompute(benchmark, encoders["distilbert"])
    with pytest.raises(ValueError, match="states"):
        build_model(benchmark, "bert_frozen", tiny)


def test_a_copy_shares_the_table_and_a_state_leaves_it_out(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    table = precompute(benchmark, tiny).table
    model = build_model(benchmark, "bert_frozen", tiny)
    other: Any = copy.deepcopy(model)
    assert other.backbone.states.table.data_ptr() == table.data_ptr()
    assert other.backbone.net is not model.backbone.net
    assert not any("table" in key for key in model.state_dict())
