"""Files that are replaced as a whole: what a killed writer leaves, and what reaches the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nlpcl.config.files import replacing, write_atomically
from tests.helpers.disks import largest_file
from tests.helpers.messages import refused

WRITE = """
import sys, pathlib
from nlpcl.config.files import replacing
with replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("complete")
    print(temporary, flush=True)
    input()
"""


def writer(path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that is writing `path`, and its temporary file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_writer_left_is_removed_and_a_living_one_finishes(tmp_path: Path) -> None:
    killed, abandoned = writer(tmp_path / "a")
    living, written = writer(tmp_path / "a")
    with killed, living:
        killed.kill()
        killed.wait()
        assert abandoned.exists() and written.exists()
        write_atomically(tmp_path / "b", b"of another file in the folder")
        assert not abandoned.exists() and written.exists()
        living.communicate("\n")
    assert living.returncode == 0 and (tmp_path / "a").read_text() == "complete"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def temporary_name(path: Path) -> str:
    with replacing(path) as temporary:
        return temporary.name


def test_another_machine_s_file_stays_for_a_day(tmp_path: Path) -> None:
    """Where a shared disk keeps the locks to each machine, its writer may be alive."""
    name = temporary_name(tmp_path / "a")
    here, there = tmp_path / name, tmp_path / name.replace(name.split(".")[-2][:8], "0" * 8)
    for age, left in ((0, {there.name}), (2, set())):
        for path in (here, there):
            path.touch()
            os.utime(path, (time.time() - age * 24 * 3600,) * 2)
        write_atomically(tmp_path / "a", b"")
        assert {path.name for path in tmp_path.iterdir()} == {"a"} | left


@pytest.mark.parametrize("name", ["a.part", f"a.{'0' * 32}", f"a.{'0' * 32}.part", f"{'0' * 8}-{'0' * 24}.part"])
def test_files_of_others_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
    write_atomically(tmp_path / "a", b"")
    assert (tmp_path / name).exists()


def test_what_is_no_plain_file_stays(tmp_path: Path) -> None:
    name = temporary_name(tmp_path / "a")
    (tmp_path / name).mkdir()
    (tmp_path / f"b{name}").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / f"c{name}")
    write_atomically(tmp_path / "a", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"a", name, f"b{name}", f"c{name}"}


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has none."""

    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    abandoned = tmp_path / temporary_name(tmp_path / "a")
    abandoned.touch()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    write_atomically(tmp_path / "a", b"content")
    assert abandoned.exists() and (tmp_path / "a").read_bytes() == b"content"


def test_file_and_folders_reach_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it takes its place, then the folder that names it, then those that name a new folder."""
    done: list[Any] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    path = tmp_path / "new" / "deep" / "a"
    write_atomically(path, b"content")
    inodes = [place.stat().st_ino for place in (path, path.parent, path.parent.parent, tmp_path)]
    assert done == [inodes[0], "replace", *inodes[1:]]


def test_a_full_disk_says_to_make_room(tmp_path: Path) -> None:
    with largest_file(1000), refused("a make room"):
        write_atomically(tmp_path / "new" / "a", b"x" * 2000)
    assert list(tmp_path.iterdir()) == []
