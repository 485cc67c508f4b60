"""A benchmark's tokens and the encoder that reads them."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from nlpcl.config.encoders import TOKENIZER, encoder_path
from nlpcl.errors import UsageError
from nlpcl.models.data import BenchmarkData
from nlpcl.models.encoder import FULL_ATTENTION, TextEncoder
from nlpcl.models.encoder_files import check_length, check_vocabulary, encoder_folder, read_tokenizer
from nlpcl.models.pretrained import EncoderLike

_UNLIMITED = 10**6
"""A `model_max_length` as large as this means that the tokenizer knows no limit."""


def encoder_for(benchmark: BenchmarkData, encoder: EncoderLike | None) -> EncoderLike:
    """Return the encoder for a benchmark of texts: the one that is asked for, or the one its tokenizer belongs to.

    :raises UsageError: none is asked for, and the tokenizer does not say where it comes from.
    """
    if encoder is not None:
        return encoder
    if not benchmark.tokenizer_name:
        raise UsageError("the benchmark's tokenizer does not say which encoder it belongs to: name one with encoder=.")
    return benchmark.tokenizer_name


def check_pair(benchmark: BenchmarkData, encoder: TextEncoder) -> None:
    """Refuse an encoder that cannot read a benchmark's tokens, or to which they mean something else.

    :raises UsageError: encoder and tokens do not fit; the sentence says why.
    """
    assert benchmark.max_length is not None  # only texts have tokens
    tokenizer, named = benchmark.tokenizer, benchmark.tokenizer_name or "another encoder"
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        if encoder.named and not _same(encoder.name, benchmark.tokenizer_name) and _differs(encoder.name, tokenizer):
            raise UsageError(
                f"the benchmark is tokenised for {named}, and encoder {encoder.name} has another vocabulary: make the "
                f"benchmark with tokenizer={encoder.name!r}, or leave the encoder out."
            )
        check_vocabulary(tokenizer, getattr(encoder.model.config, "vocab_size", None), encoder.name)
        if tokenizer.model_max_length < _UNLIMITED:
            check_length(benchmark.max_length, tokenizer.model_max_length, encoder.name)
    check_length(benchmark.max_length, encoder.positions(), encoder.name)
    if encoder.model.config.model_type not in FULL_ATTENTION:
        encoder.check_length(benchmark.max_length)  # it may pad to its own window, or count positions in another way


def _differs(encoder: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether an encoder's own tokenizer gives other ids; False if the encoder has no tokenizer."""
    folder = encoder_folder(encoder)
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZER):
        return False
    ids: dict[str, int] = read_tokenizer(folder).get_vocab()
    return bool(ids != tokenizer.get_vocab())


def _same(one: str, other: str) -> bool:
    """Return whether two names mean one encoder; an empty name means none."""
    try:
        return bool(other) and Path(encoder_path(one)).resolve() == Path(encoder_path(other)).resolve()
    except UsageError:  # a tokenizer may say that it comes from where there is nothing now
        return False
