"""Keep tokenised text on disk: it is made once per (data, tokenizer, max_length), then memory-mapped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pooch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nlpcl.config.files import replacing

_FORMAT = "3"
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of tokenised text: `tokens` in the user's cache folder for nlpcl."""
    return Path(pooch.os_cache("nlpcl")) / "tokens"


def cache_key(identity: str | None, max_length: int, texts: Iterable[str], pairs: Iterable[str] | None) -> str | None:
    """Return the SHA-256 of all that decides the result; None for a tokenizer without a fingerprint.

    :param identity: the tokenizer's `fingerprint`.
    """
    if identity is None:
        return None
    digest = hashlib.sha256(repr((_FORMAT, identity, max_length)).encode())
    for column in (texts, pairs):
        digest.update(b"\0none" if column is None else b"\0some")
        for text in column or ():
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def fingerprint(tokenizer: Any) -> str | None:
    """Return the SHA-256 of all that decides the ids of a fast tokenizer; None for a tokenizer without a backend.

    It takes some 40 ms for 30,000 words, so it is computed once for a benchmark. It is not cached, as a tokenizer may
    be changed in place. Truncation and padding of the backend are left out, since each call sets them anew.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        return None
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    kind = type(tokenizer)  # some classes have an __call__ of their own
    settings = (
        f"{kind.__module__}.{kind.__qualname__}",
        tokenizer.truncation_side,
        tokenizer.split_special_tokens,
        sorted(tokenizer.model_input_names),
        tokenizer.pad_token_id,
        tokenizer.pad_token_type_id,
    )
    return hashlib.sha256(json.dumps([backend, settings], sort_keys=True).encode()).hexdigest()


def cached(key: str | None, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors stored under `key`, memory-mapped, or make and store them.

    A file that is cut short, altered or stored under another key is made anew. Where nothing can be written, the
    tensors stay in memory. Processes that make the same file at once write a temporary file each, and the last to
    rename wins.
    """
    if key is None:
        return make()
    file = cache_folder() / f"{key}.safetensors"
    if (stored := _load(file)) is not None:
        return stored
    tensors = make()
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(save(tensors, metadata={"sha256": _checksum(key, tensors)}))
    except OSError as error:
        _log.warning("tokenised text stays in memory: %s cannot be written (%s)", file.parent, error)
        return tensors
    return _load(file) or tensors


def _checksum(key: str, tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 of a file's key and tensors, so that no file passes under another's name."""
    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(file: Path) -> dict[str, Tensor] | None:
    if not file.is_file():
        return None
    with suppress(OSError, SafetensorError), safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        if (stored.metadata() or {}).get("sha256") == _checksum(file.stem, tensors):
            return tensors
    _log.warning("%s is damaged and made anew", file)
    return None
