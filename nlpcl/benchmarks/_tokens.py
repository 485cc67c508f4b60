"""Tokenise texts: an example is a tensor (3, L) of input ids, attention mask and segment ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nlpcl.benchmarks._base import Examples
from nlpcl.benchmarks._files.cache import cache_key, cached
from nlpcl.errors import UsageError
from nlpcl.models.encoder_files import (
    CONFIG,
    check_files,
    check_vocabulary,
    encoder_folder,
    read_tokenizer,
    refusing,
)


def load_tokenizer(tokenizer: Any) -> Any:
    """Return the fast tokenizer of an encoder: `minilm`, a local folder, a hub name, or a tokenizer as it is.

    :raises UsageError: it cannot be had, or it or its encoder is refused for what its files say.
    """
    if isinstance(tokenizer, (str, os.PathLike)):
        folder = encoder_folder(tokenizer, weights=False)
        name, tokenizer = str(tokenizer), read_tokenizer(folder)
        if (folder / CONFIG).is_file():  # not of a tokenizer alone, which is used with an encoder from elsewhere
            config = check_files(folder, weights=False).config
            check_vocabulary(tokenizer, getattr(config, "vocab_size", None), name)
        tokenizer.padding_side = "right"
    if not callable(tokenizer):
        raise UsageError(
            f"tokenizer is a name, a folder or a tokenizer of transformers, not a {type(tokenizer).__name__}."
        )
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.pad_token is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UsageError(f"the tokenizer of {name} has no pad token: set its pad_token and save it again.")
    return tokenizer


def columns(frame: pd.DataFrame) -> tuple[list[str], list[str] | None]:
    """Return first segments and second ones, or None: the columns `text` and `text_pair`."""
    has_pairs = "text_pair" in frame.columns and not frame["text_pair"].isna().all()
    return frame["text"].tolist(), frame["text_pair"].tolist() if has_pairs else None


class PackedText(Examples):
    """Tokenised examples and their classes. Example i is a LongTensor (3, L) of ids, attention mask and segments.

    Once `first` is set it is (4, L): the fourth row then says where each token's state lies in a table of states, 0 at
    padding (`nlpcl.models.states`).

    :param ids: (N, L), of the smallest integer type that holds them.
    :param flags: (N, L) uint8, attention mask + 2 * segment.
    :param targets: N class indices.
    """

    def __init__(self, ids: Tensor, flags: Tensor, targets: list[int]) -> None:
        self.ids = ids
        self.flags = flags
        self.targets = targets
        self.lengths = (flags & 1).sum(dim=1)
        """Number of real tokens of each example, LongTensor (N,)."""
        self.first: Tensor | None = None
        """Where the state of each example's first token lies, LongTensor (N,)."""

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the inputs (B, 3, L), or (B, 4, L), of the examples `rows`, LongTensor (B,)."""
        flags = self.flags[rows].long()
        mask = flags & 1
        parts = [self.ids[rows].long(), mask, flags >> 1]
        if self.first is not None:
            parts.append((self.first[rows, None] + torch.arange(mask.shape[1])) * mask)
        return torch.stack(parts, dim=1)

    def digest(self) -> str:
        """Return the SHA-256 of what an encoder sees of the examples."""
        digest = hashlib.sha256(repr((self.ids.dtype, tuple(self.ids.shape))).encode())
        for part in (self.ids, self.flags):
            digest.update(part.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def pack(
    tokenizer: Any,
    identity: str | None,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    targets: list[int],
    max_length: int,
) -> PackedText:
    """Tokenise, or load what an earlier run with the same data, tokenizer and length left on disk.

    :param identity: the tokenizer's `fingerprint`; None means that nothing is kept on disk.
    :param texts: first segments.
    :param pairs: second segments, or None.
    """

    def make() -> dict[str, Tensor]:
        x = tokenize(tokenizer, texts, pairs, max_length)
        return {"ids": smallest(x[:, 0]), "flags": (x[:, 1] + 2 * x[:, 2]).to(torch.uint8)}

    tensors = cached(cache_key(identity, max_length, texts, pairs), make)
    return PackedText(tensors["ids"], tensors["flags"], targets)


def smallest(ids: Tensor) -> Tensor:
    """Return the same non-negative integers in the smallest type of 16 bits or more."""
    return ids.to(torch.int16 if int(ids.max()) < 2**15 else torch.int32).contiguous()


def tokenize(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Tensor:
    """Return ids, attention mask and segment ids of every text or pair, padded to `max_length`.

    Where the model has no segments they are 0. A pair that is too long loses tokens from the longer side.

    :param texts: first segments.
    :param pairs: second segments, or None.
    :return: LongTensor (N, 3, max_length).
    :raises UsageError: the tokenizer cannot encode a text, as one without its token for unknown words.
    """
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    with refusing(f"the tokenizer of {name} cannot encode the texts"):
        out = tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            max_length=max_length,
            padding="max_length",
            padding_side="right",
            truncation="longest_first" if pairs is not None else True,
            return_tensors="pt",
        )
        ids, mask = out["input_ids"], out["attention_mask"]
        has_segments = "token_type_ids" in tokenizer.model_input_names
        segments = out["token_type_ids"] if has_segments else torch.zeros_like(ids)
        return torch.stack([ids, mask, segments], dim=1)
