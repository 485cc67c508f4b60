"""Tiny encoders of many architectures, and what is wrong with the files of some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, BertTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "good bad red blue cat dog sun rain hot cold one two the a is was".split()  # noqa: SIM905
SIZES = {
    **{"vocab_size": 21, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    **{"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "embedding_size": 16, "input_embedding_size": 16},
    **{"max_position_embeddings": 64, "pad_token_id": 0, "attention_window": [16, 16]},
    **{
        "architectures": ["FunnelModel"],
        "block_sizes": [1, 1],
        "d_model": 32,
        "n_layer": 2,
        "n_head": 4,
        "d_head": 8,
        "d_inner": 64,
    },
    **{"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}


def tiny_config(kind: str, **more: Any) -> Any:
    """The configuration of a tiny model of a type, with the sizes that the type knows."""
    known = CONFIG_MAPPING[kind]()
    names = [name for name in SIZES if hasattr(known, name) and name != "architectures"]
    if kind in ("funnel", "xlnet"):  # these set no names but their own
        names = [name for name in SIZES if name in vars(known) and (name != "architectures" or kind == "funnel")]
    return CONFIG_MAPPING[kind](**{name: SIZES[name] for name in names} | more)


def save_tokenizer(folder: Path, words: list[str] | None = None, **more: Any) -> None:
    """The tests' words as a tokenizer, padded with token 0."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + (words or WORDS)) + "\n")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    BertTokenizerFast(str(folder / "vocab.txt"), model_input_names=names, **more).save_pretrained(folder)


def save_tiny(folder: Path, kind: str = "bert", model: nn.Module | None = None, **config: Any) -> str:
    """A tiny encoder with random weights and its tokenizer, as a folder.

    :param model: what is saved; None: the plain encoder of that type.
    """
    torch.manual_seed(0)
    with torch.random.fork_rng():
        saved: Any = model or AutoModel.from_config(tiny_config(kind, **config))
        saved.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


def weights(folder: str | Path) -> dict[str, Tensor]:
    """What is stored, by name."""
    return load_file(Path(folder) / "model.safetensors")


def store(folder: str | Path, tensors: dict[str, Tensor]) -> None:
    """Put weights in the place of those that are there."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, Path(folder) / "model.safetensors", metadata={"format": "pt"})


def edit(folder: str | Path, name: str = "config.json", **changes: Any) -> None:
    """Change entries of a JSON file; None takes one out."""
    file = Path(folder) / name
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def packed(lengths: list[int], width: int = 32) -> Tensor:
    """Random texts (B, 3, width) of those lengths, the second half of each as its second segment."""
    x = torch.zeros(len(lengths), 3, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        x[row, 0, :length] = torch.randint(5, 21, (length,))
        x[row, 1, :length] = 1
        x[row, 2, length // 2 : length] = 1
    return x
