"""What is no plain file is refused before it is opened, wherever a file is read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.config.files import from_json, known_sha256, read_plain
from tests.helpers.messages import refused


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_PLAIN_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "named pipe": (os.mkfifo, "named pipe"),
    "folder": (Path.mkdir, "folder"),
    "socket": (bind, "socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "device"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "No such file"),
    "link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "no readable file": (lambda path: path.symlink_to("/proc/self/mem"), "error"),
}


@pytest.fixture(params=NO_PLAIN_FILES)
def no_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The name of what is no plain file, in the working folder, and words of the reason."""
    make, words = NO_PLAIN_FILES[request.param]
    monkeypatch.chdir(tmp_path)
    make(Path("thing.json"))
    return "thing.json", words


def test_no_plain_file_is_read(no_file: tuple[str, str]) -> None:
    name, words = no_file
    for read in (read_plain, known_sha256):
        with refused(f"{name} {words}"):
            read(Path(name))


def test_no_command_reads_what_is_no_plain_file(no_file: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    name, words = no_file
    for command in (["run", "--from", name], ["run", "--preset", name, "--dry-run"], ["leaderboard", "add", name]):
        assert main(command) == 2
        assert name in (message := capsys.readouterr().err) and words in message


def test_a_link_to_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "link") == b"content"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff\xfe\xfd", "[1"])
def test_no_text_of_json_raises_another_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_json(text)
