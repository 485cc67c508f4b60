"""Damage files as accidents and strangers do: cut, flipped, emptied, swapped, of another type, no files at all."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

SNIPPETS = (
    *(
        b"\0",
        b"\r",
        b"\n\n",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b'"',
        b",,,,",
        b"\t\t",
        b"{}",
        b"[]",
        b"null",
    ),
    *(b"\x1b[31m", b"\x1b]0;name\x07", b"\x9b2J", "\u202e①٣ﬁ".encode(), b"NaN", b"1e999", b"-1", b"9" * 5000),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"x" * 5000, b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1", b"../../etc/passwd"),
)
"""Bytes that readers of text, JSON, archives and names stumble over."""
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2, 10**30, 0.5, 1e308, float("nan"), "", "x", "\x1b[31mred", "\ud800", "a\nb", "x" * 5000),
    *([], [1], {}, {"a": 1}, [[[]]]),
)
"""Values of other types for places in JSON."""
NAMES = (b"\x1b[31mred", b"a\nnlpcl: error: b", b"\xff", "\u202eab".encode(), b" ", b"x" * 200, "①".encode(), b"[a]*")


def damage(folder: Path, rng: random.Random) -> list[str]:
    """Damage one to three files below `folder`; return what was done to which, so that a failing test can tell."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = sorted(path for path in folder.rglob("*") if not path.is_symlink())
        change = rng.choice(CHANGES)
        if files := [path for path in paths if path.is_file() or (change is rename and path.is_dir())]:
            file = rng.choice(files)
            change(file, rng)
            done.append(f"{change.__name__} {file.relative_to(folder).as_posix()!a}")
    return done


def cut(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    _write(file, content[: rng.randrange(len(content) + 1)])


def flip(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        if content:
            content[_place(content, rng)] ^= rng.randrange(1, 256)
    _write(file, bytes(content))


def insert(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    at = _place(content, rng)
    _write(file, content[:at] + rng.choice((*SNIPPETS, rng.randbytes(20))) + content[at:])


def overwrite(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    at, size = _place(content, rng), rng.choice((1, 16, 400))
    _write(file, content[:at] + rng.choice((b"\0", b"\xff", b"1")) * size + content[at + size :])


def repeat(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    start, end = sorted((_place(content, rng), _place(content, rng)))
    _write(file, content[:end] + content[start:end] + content[end:])


def empty(file: Path, rng: random.Random) -> None:
    _write(file, b"")


def replace(file: Path, rng: random.Random) -> None:
    _write(file, rng.choice((*SNIPPETS, rng.randbytes(300))))


def remove(file: Path, rng: random.Random) -> None:
    file.unlink()


def swap(file: Path, rng: random.Random) -> None:
    """With another file of its folder, or with itself."""
    other = rng.choice(sorted(path for path in file.parent.iterdir() if path.is_file() and not path.is_symlink()))
    content, others = file.read_bytes(), other.read_bytes()
    _write(file, others)
    _write(other, content)


def rename(path: Path, rng: random.Random) -> None:
    """Give a file or folder a name that shells and terminals dislike."""
    kept = path.suffix if rng.random() < 0.5 else ""
    name = os.fsencode(path.parent) + b"/" + rng.choice(NAMES) + os.fsencode(kept)
    if not os.path.exists(name):
        os.rename(path, name)


def retype(file: Path, rng: random.Random) -> None:
    """Put something that is no file of its own in its place."""
    content = file.read_bytes()
    file.unlink()
    kind = rng.choice(("folder", "pipe", "nowhere", "itself", "parent", "elsewhere"))
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "elsewhere":
        (file.parent / "_moved").write_bytes(content)
        file.symlink_to("_moved")
    else:
        file.symlink_to({"nowhere": "/nowhere", "itself": file.name, "parent": ".."}[kind])


def edit(file: Path, rng: random.Random) -> None:
    """Change a value of a JSON file, or of a line of one, or a tensor; of any other file flip bytes."""
    try:
        if file.suffix == ".safetensors":
            _edit_tensors(file, rng)
        elif file.suffix == ".jsonl":
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(_edited(json.loads(lines[at]), rng)) + "\n"
            _write(file, "".join(lines).encode())
        else:
            _write(file, json.dumps(_edited(json.loads(file.read_text(encoding="utf-8")), rng)).encode())
    except (ValueError, RecursionError, SafetensorError):  # damaged before, or neither JSON nor tensors
        flip(file, rng)


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(cut, flip, insert, overwrite, repeat, empty, replace, remove, swap, rename, retype, edit, edit, edit),
)


def _write(file: Path, content: bytes) -> None:
    """Write to a new file, as another may be a hard link to the old one."""
    file.unlink()
    file.write_bytes(content)


def _place(content: bytes | bytearray, rng: random.Random) -> int:
    """Return a position, half of the time among the first or last 100, where formats have their heads."""
    size = max(1, len(content))
    return rng.choice((rng.randrange(size), rng.randrange(size), rng.randrange(min(size, 100)), max(0, size - 100)))


def _edited(tree: Any, rng: random.Random) -> Any:
    """Return JSON with one value dropped, doubled, moved or replaced, at any depth."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.2:
        return rng.choice(VALUES)
    key: Any = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    kind = rng.choice(("inside", "inside", "drop", "value", "swap"))
    if kind == "inside":
        tree[key] = _edited(tree[key], rng)
    elif kind == "drop":
        del tree[key]
    elif kind == "value":
        tree[key] = rng.choice(VALUES)
    else:
        other: Any = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        tree[key], tree[other] = tree[other], tree[key]
    return tree


def _edit_tensors(file: Path, rng: random.Random) -> None:
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kind = rng.choice(("drop", "name", "transpose", "half", "integer", "shorter", "infinite"))
    if kind == "name":
        tensors[f"{rng.choice(('bert.', 'x', ''))}{name}{rng.choice(('', '.x'))}"] = tensor
    elif kind != "drop":
        changed = {
            "transpose": tensor.T if tensor.dim() == 2 else tensor[None],
            "half": tensor.half(),
            "integer": tensor.int(),
            "shorter": tensor[:-1] if tensor.dim() else tensor[None],
            "infinite": tensor * float("inf"),
        }
        tensors[name] = changed[kind]
    saved = file.with_name("_saved")
    save_file({key: value.contiguous() for key, value in tensors.items()}, saved, metadata={"format": "pt"})
    os.replace(saved, file)
