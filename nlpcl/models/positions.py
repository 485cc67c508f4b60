"""How many tokens an encoder takes."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from nlpcl.errors import UsageError
from nlpcl.models.encoder_files import CONFIG, check_files, encoder_folder


def position_table(model: nn.Module) -> nn.Embedding | None:
    """Return the table of an encoder's positions, or None if it counts them otherwise."""
    for name, table in model.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(table, nn.Embedding):
            return table
    return None


def positions_of(model: nn.Module) -> int | None:
    """Return the most tokens that an encoder takes; None means that its positions are in no table."""
    table = position_table(model)
    if table is None:
        return None
    # RoBERTa and its like number the tokens from the index of padding on.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def positions_in(encoder: str) -> int | None:
    """Return the most tokens that the encoder of a name or folder takes, without its weights; see `positions_of`."""
    folder = encoder_folder(encoder, weights=False)
    return positions_of(check_files(folder, weights=False)) if (folder / CONFIG).is_file() else None


def check_max_length(max_length: int, tokenizer: Any, positions: int | None, name: str) -> None:
    """Refuse texts that are longer than an encoder or its tokenizer is made for.

    :param positions: the encoder's `positions_of`.
    :raises UsageError: `max_length` is more; the sentence has both numbers.
    """
    made_for = tokenizer.model_max_length if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    most = min((limit for limit in (positions, made_for) if limit is not None), default=max_length)
    if max_length > most:
        raise UsageError(
            f"max_length (--max-length) {max_length} is more than the {most} tokens that encoder {name} is made for: "
            f"use {most} or less."
        )
