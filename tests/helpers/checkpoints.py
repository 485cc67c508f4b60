"""Change the files of a checkpoint, as somebody may who can write into the folder of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor


def rewrite(path: Path, name: str, raw: bytes) -> None:
    """Put other bytes into a file of a checkpoint, with the digest that goes with them."""
    (path / name).unlink(missing_ok=True)  # not through a hard link
    (path / name).write_bytes(raw)
    if name != "sums.json":
        sums = json.loads((path / "sums.json").read_text())
        sums[name] = hashlib.sha256(raw).hexdigest()
        (path / "sums.json").write_text(json.dumps(sums))


def edit_json(path: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads((path / name).read_text())
    change(content)
    rewrite(path, name, json.dumps(content).encode())


def edit_tensors(path: Path, part: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a part in place."""
    tensors = load_file(path / f"{part}.safetensors")
    change(tensors)
    rewrite(path, f"{part}.safetensors", save({name: t.contiguous() for name, t in tensors.items()}))


def at(tree: list[Any], *names: str) -> Any:
    """Return the attributes of the object or module that is reached by these attributes and indices."""
    for name in names:
        if tree[0] == "dict":
            tree = next(value for key, value in tree[2] if key == ["plain", name])
        elif tree[0] == "module":
            tree = (tree[2][2] | tree[2][3])[name]
        else:
            tree = tree[2][int(name) if name.isdigit() else name]
    return tree[2][3] if tree[0] == "module" else tree[2]
