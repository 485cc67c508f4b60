"""Text becomes a tensor: input ids, attention mask and segment ids, (3, L) an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from nlpcl.encoders import encoder_path
from nlpcl.errors import UsageError


def load_tokenizer(tokenizer: Any) -> Any:
    """The fast tokenizer of an encoder: `minilm`, a local folder, a hub name, or a tokenizer as it is.

    :raises UsageError: it cannot be had; the sentence says how to get it.
    """
    if not isinstance(tokenizer, str):
        return tokenizer
    path = encoder_path(tokenizer)
    try:
        fast = AutoTokenizer.from_pretrained(path, use_fast=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no tokenizer for encoder {tokenizer!r} here: give a local folder with its files, a name the model hub "
            f"knows (needs the network the first time), or --model minilm ({type(error).__name__})."
        ) from error
    fast.padding_side = "right"
    return fast


def encode(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Tensor:
    """Ids, attention mask and segment ids of every text or pair, padded to `max_length`.

    Where the model has no segments they are 0. A pair that is too long loses tokens from the longer side.

    :param texts: first segments.
    :param pairs: second segments, or None.
    :return: LongTensor (N, 3, max_length).
    """
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
