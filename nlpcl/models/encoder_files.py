"""Checks of an encoder's files before weights are loaded: configuration, headers of the weights, tokenizer.

transformers repairs or guesses what a folder lacks, and may run code from it. Here such a folder is refused with one
sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from nlpcl.config.encoders import TOKENIZER, encoder_path
from nlpcl.errors import UsageError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx")
_LFS = b"version https://git-lfs"
_FLOATS = ("F64", "F32", "F16", "BF16")
_ENCODER_DECODERS = set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
# Text encoders are pretrained as masked language models, except these four. bert-generation has a class for causal
# models alone, but is bidirectional unless its configuration says is_decoder.
_ENCODERS = (
    set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) | {"bert-generation", "xlnet", "canine", "splinter"}
) - _ENCODER_DECODERS
_DECODERS = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - _ENCODERS - _ENCODER_DECODERS


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what a library raises over a user's files into a `UsageError`.

    Every class of exception is caught, since the libraries raise many, tokenizers and safetensors plain `Exception`.

    :param what: the beginning of the sentence.
    """
    try:
        yield
    except (UsageError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(f"{what} ({type(error).__name__}: {why}).") from error


def encoder_folder(name: str | os.PathLike[str], weights: bool = True) -> Path:
    """Return the folder with an encoder's files; files of a hub name are downloaded if they are not in the cache.

    :param weights: whether the weights are wanted.
    :raises UsageError: there is no such encoder; the sentence says how to get one.
    """
    path = encoder_path(name)
    if os.path.isdir(path):
        return Path(path)
    wanted = [CONFIG, *TOKENIZER, *([INDEX, WEIGHTS, "model-*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no encoder {path!r}: there is no such folder, and the model hub gives none of that name "
            f"({type(error).__name__}). Give a local folder with its config and weights, a name the hub knows (needs "
            "the network the first time), or --model minilm, which comes with the extra demo."
        ) from error


def check_files(folder: Path) -> Any:
    """Check an encoder's files without loading weights, and return its configuration.

    A folder without weights passes, as it may be there for its tokenizer alone.

    :raises UsageError: it has no configuration of a text encoder, or its weights cannot be read.
    """
    config = read_config(folder)
    skeleton = read_skeleton(config, folder)
    if any(next(folder.glob(pattern), None) for pattern in ("*.safetensors*", *_OTHER_WEIGHTS)):
        check_weights(folder, skeleton)
    return config


def read_config(folder: Path) -> Any:
    """Return the configuration of a text encoder.

    :raises UsageError: there is none, it cannot be read, or it is for another kind of model.
    """
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} holds a PEFT adapter: merge it into its encoder (merge_and_unload) and save that.")
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} has no {CONFIG}{_subfolder(folder)}.")
    content = _read_json(folder / CONFIG)
    _refuse_code(folder / CONFIG, content)
    kind = content.get("model_type")
    if not isinstance(kind, str):
        raise UsageError(f"{folder / CONFIG} does not say its model_type.")
    if content.get("quantization_config"):
        raise UsageError(f"{folder / CONFIG} has a quantization_config: save the encoder with plain weights.")
    if kind not in CONFIG_MAPPING_NAMES:
        raise UsageError(f"{folder / CONFIG}: the installed transformers knows no model_type {kind!r}.")
    with refusing(f"{folder / CONFIG} is no configuration that transformers takes"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_kind(config, str(folder))
    return config


def check_kind(config: Any, name: str) -> None:
    """Refuse the configuration of a model that is no text encoder.

    :param name: the encoder's name, for the sentence.
    :raises UsageError: it is no text encoder; the sentence says what it is.
    """
    kind = config.model_type
    if kind in _ENCODER_DECODERS or getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"{name} is an encoder-decoder ({kind}); what is needed is an encoder, such as BERT.")
    if kind in _DECODERS or getattr(config, "is_decoder", False) or getattr(config, "causal", False):
        raise UsageError(
            f"{name} is a decoder ({kind}), whose tokens see only those before them; what is needed is an encoder, "
            "such as BERT."
        )
    if kind not in _ENCODERS:
        raise UsageError(f"{name} is a {kind}, which is not known as an encoder of text, such as BERT.")


def read_skeleton(config: Any, folder: Path) -> nn.Module:
    """Return the encoder that a configuration describes, without weights, which takes milliseconds."""
    with refusing(f"{folder / CONFIG} describes no encoder that transformers can build"), torch.device("meta"):
        skeleton: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    return skeleton


def positions_of(model: nn.Module) -> int | None:
    """Return the most tokens that an encoder's table of positions takes, or None if it has no table."""
    table = position_table(model)
    if table is None:
        return None
    # RoBERTa and its like start to count after the index of padding.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def position_table(model: nn.Module) -> nn.Embedding | None:
    """Return the table of an encoder's absolute positions, or None."""
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, nn.Embedding):
            return module
    return None


def check_length(max_length: int, most: int | None, name: str) -> None:
    """Refuse texts of more tokens than an encoder, or its tokenizer, is made for.

    :param most: the most tokens that it takes; None means any number.
    :raises UsageError: the texts are longer; the sentence says what fits.
    """
    if most is not None and max_length > most:
        raise UsageError(
            f"max_length (--max-length) {max_length} is more than the {most} tokens that encoder {name} is made for: "
            f"use {most} or less."
        )


def check_weights(folder: Path, skeleton: nn.Module) -> None:
    """Refuse weights that are missing, incomplete or quantised, or that would have to be unpickled.

    :param skeleton: the encoder that the configuration describes.
    :raises UsageError: there are such weights; the sentence names the file.
    """
    buffers = {name.rpartition(".")[2] for name, _ in skeleton.named_buffers()}
    for file in _weight_files(folder):
        _refuse_pointer(file)
        try:
            with safe_open(file, framework="pt") as stored:
                types = {key: stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{file} is no complete safetensors file: {error}. Copy or save it again.") from error
        for key, kind in types.items():
            if kind not in _FLOATS and key.rpartition(".")[2] not in buffers:
                raise UsageError(
                    f"{file}: {key} is stored as {kind}; weights must be floating-point numbers of 16 bits or more."
                )


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        parts = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise UsageError(f"{folder / INDEX} has no weight_map.")
        files = [folder / part for part in sorted(set(parts.values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise UsageError(f"{folder} lacks {len(absent)} of its {len(files)} files of weights: {few(absent)}.")
        return files
    others = sorted(file.name for pattern in _OTHER_WEIGHTS for file in folder.glob(pattern))
    if not others:
        raise UsageError(f"{folder} has no weights: there is no {WEIGHTS}.")
    raise UsageError(
        f"{folder} has no {WEIGHTS}, and nothing is unpickled: convert {few(others)} with transformers' "
        f"AutoModel.from_pretrained(...).save_pretrained(...)."
    )


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder, if possible the fast one.

    :raises UsageError: there is none, it cannot be read, or it has no token for padding.
    """
    files = {file for pattern in TOKENIZER for file in folder.glob(pattern)}
    for file in files:
        _refuse_pointer(file)
    for name in ("tokenizer_config.json", CONFIG):
        if (folder / name).is_file():
            _refuse_code(folder / name, _read_json(folder / name))
    with refusing(f"the tokenizer in {folder} cannot be read{'' if files else ', as there are no tokenizer files'}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - set(tokenizer.get_added_vocab())
    if not words:  # without files transformers makes a tokenizer of the special tokens alone
        raise UsageError(
            f"{folder} has no tokenizer files: save the encoder's tokenizer there, too (tokenizer.json, or vocab.txt "
            "or the like)."
        )
    check_padding(tokenizer, str(folder))
    return tokenizer


def check_padding(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that cannot pad.

    :raises UsageError: it has no token for padding.
    """
    if tokenizer.pad_token is None:
        raise UsageError(f"the tokenizer of {name} has no pad token: set its pad_token and save it again.")


def check_vocabulary(tokenizer: Any, rows: int | None, name: str) -> None:
    """Refuse a tokenizer with ids for which an encoder has no embedding.

    :param rows: number of the encoder's embeddings; None means that it has no table of them.
    :raises UsageError: an id is too large; the sentence has both numbers.
    """
    if rows is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UsageError(
            f"the tokenizer has {len(tokenizer)} tokens with ids up to {highest}, and the encoder {name} has "
            f"embeddings for {rows}: they do not belong together, or tokens were added without "
            "resize_token_embeddings."
        )


def _read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    :raises UsageError: the file cannot be read, or holds no JSON object.
    """
    _refuse_pointer(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as JSON ({type(error).__name__}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no JSON object.")
    return content


def _refuse_code(file: Path, content: dict[str, Any]) -> None:
    """Refuse a configuration that names Python code to be run.

    :raises UsageError: it has an `auto_map`.
    """
    if content.get("auto_map"):
        raise UsageError(
            f"{file} asks for Python code of its own (auto_map), and code from an encoder is never run "
            "(trust_remote_code is off)."
        )


def few(names: list[str], most: int = 3) -> str:
    """Return the first names as text, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _refuse_pointer(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(_LFS))
    except OSError as error:
        raise UsageError(f"cannot read {file} ({error.strerror}).") from error
    if begin == _LFS:
        raise UsageError(f"{file} is a pointer of Git LFS and not the file itself: run git lfs pull there.")


def _subfolder(folder: Path) -> str:
    """Return a hint at a subfolder with an encoder, where sentence-transformers may have saved it, or no text."""
    inner = [file.parent for file in sorted(folder.glob(f"*/{CONFIG}")) if "model_type" in _read_json(file)]
    return f"; there is an encoder in {inner[0]}" if inner else ""
