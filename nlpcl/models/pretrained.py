"""Loading an encoder, which is refused unless it computes with exactly what its file holds."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import re
from typing import Any, TypeAlias, cast

import torch
from transformers import AutoModel, PreTrainedModel

from nlpcl.config.encoders import encoder_path
from nlpcl.errors import UsageError
from nlpcl.models.encoder_files import (
    check_kind,
    check_weights,
    encoder_folder,
    few,
    read_config,
    read_skeleton,
    refusing,
)

EncoderLike: TypeAlias = str | os.PathLike[str] | PreTrainedModel
_POOLER = re.compile(r"(.*\.)?pooler\.")


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
        model = _load(encoder, pooler)
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


def _load(name: str | os.PathLike[str], pooler: bool) -> PreTrainedModel:
    folder = encoder_folder(name)
    config = read_config(folder)
    check_weights(folder, read_skeleton(config, folder))
    model: PreTrainedModel
    with refusing(f"the encoder in {folder} cannot be loaded"):
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,  # not the file's dtype: --precision decides how to compute
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # _check_loaded reports them
            output_loading_info=True,
        )
    missing = sorted(info["missing_keys"])
    if _leave_out_pooler(model, missing):
        missing = [key for key in missing if not _POOLER.match(key)]
        if pooler:
            raise UsageError(
                f"the file of encoder {str(name)!r} has no pooler: use --set pooling=mean or --set pooling=cls."
            )
    _check_loaded(str(name), model, missing, info)
    return model


def _leave_out_pooler(model: Any, missing: list[str]) -> bool:
    """Remove the pooler of a model that works without it, if the file holds none of its weights."""
    of_pooler = {key for key in missing if _POOLER.match(key)}
    all_missing = of_pooler == {key for key in model.state_dict() if _POOLER.match(key)}
    optional = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    if not (of_pooler and all_missing and optional):
        return False
    model.pooler = None  # as the class itself does with add_pooling_layer=False
    return True


def _check_loaded(name: str, model: Any, missing: list[str], info: dict[str, Any]) -> None:
    """Refuse a model with weights that are not from the file, or without layers that the file holds."""
    children = {name for name, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."
    left_out = sorted(k for k in info["unexpected_keys"] if k.removeprefix(prefix).partition(".")[0] in children)
    shapes = [f"{key} {list(file)} for {list(asked)}" for key, file, asked in sorted(info["mismatched_keys"])]
    if missing:
        unknown = sorted(info["unexpected_keys"])
        instead = f", which holds {few(unknown)} instead" if unknown else ""
        raise UsageError(
            f"{len(missing)} weights of encoder {name!r} are not in its file{instead}: {few(missing)}. They would be "
            "random: save the encoder with save_pretrained, and its config.json with it."
        )
    if shapes:
        raise UsageError(
            f"{len(shapes)} weights of encoder {name!r} have another shape in its file than config.json asks for: "
            f"{few(shapes)}."
        )
    if left_out:
        raise UsageError(
            f"the file of encoder {name!r} holds {len(left_out)} weights of the encoder for which config.json has no "
            f"place: {few(left_out)}. They would be left out: set num_hidden_layers and the like to what was trained."
        )
