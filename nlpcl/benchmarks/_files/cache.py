"""Tokenised text on disk: made once per (data, tokenizer, max_length), then memory-mapped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pooch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nlpcl.config.files import replacing

FORMAT = "2"
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where tokenised text is kept: `tokens` in the user's cache folder for nlpcl."""
    return Path(pooch.os_cache("nlpcl")) / "tokens"


def cache_key(identity: str | None, max_length: int, texts: Iterable[str], pairs: Iterable[str] | None) -> str | None:
    """SHA-256 of all that decides the result; None for a tokenizer that cannot tell what it is.

    :param identity: the tokenizer's `fingerprint`.
    """
    if identity is None:
        return None
    digest = hashlib.sha256(repr((FORMAT, identity, max_length)).encode())
    for column in (texts, pairs):
        digest.update(b"\0none" if column is None else b"\0some")
        for text in column or ():
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def fingerprint(tokenizer: Any) -> str | None:
    """SHA-256 of all of a fast tokenizer that decides the ids, or None for one that has no backend to look at.

    It takes some 40 ms for 30,000 words and is computed once for a benchmark: a tokenizer may be changed in place.
    Truncation and padding of the backend are left out, since each call sets them from what is taken up here.
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
    """The tensors stored under `key`, memory-mapped; if there are none, `make()`, stored for the next time.

    A file that is cut short or altered is made anew; where nothing can be written, the tensors stay in memory.
    Processes that make the same file at once write their own temporary ones, and the last to rename wins.
    """
    if key is None:
        return make()
    file = cache_folder() / f"{key}.safetensors"
    found = _load(file)
    if found is not None:
        return found
    tensors = make()
    try:
        _save(file, tensors)
    except (OSError, SafetensorError) as error:
        log.warning("tokenised text stays in memory: %s cannot be written (%s)", file.parent, error)
        return tensors
    return _load(file) or tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(file: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
            checksum = (stored.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        log.warning("%s is damaged and made anew", file)
        return None
    if checksum != _checksum(tensors):
        log.warning("%s is damaged and made anew", file)
        return None
    return tensors


def _save(file: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(file) as temporary:
        save_file(tensors, temporary, metadata={"sha256": _checksum(tensors)})
