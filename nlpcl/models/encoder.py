"""A Hugging Face encoder that takes text as one tensor (B, 3, L)."""

from __future__ import annotations

import inspect
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from nlpcl.encoders import encoder_path
from nlpcl.errors import NOT_BOTH, UsageError, suggest
from nlpcl.models.base import Backbone, TaskLabels

Pooling = Literal["mean", "cls", "pooler"]
Padding = Literal["dynamic", "fixed"]
# Of these every layer attends to all of a text, so the mask may be given to it as it is.
FULL_ATTENTION = ("bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert")


def trim(x: Tensor) -> Tensor:
    """Cut (B, 3, L) after the longest real row, rounded up to a multiple of 8."""
    longest = int(x[:, 1].sum(dim=1).max())
    return x[:, :, : min(-(-longest // 8) * 8, x.shape[2])]


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, L, H) over real positions, (B, H); `mask` is (B, L), True on real tokens."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def broadcast_mask(mask: Tensor) -> Tensor:
    """A mask (B, L) as fused attention takes it: (B, 1, 1, L), True on real tokens."""
    return mask.bool()[:, None, None, :]


def load_encoder(name: str) -> PreTrainedModel:
    """The pretrained encoder `name`: `minilm`, a local folder or a hub name.

    :raises UsageError: it cannot be had; the sentence says how to get it.
    """
    path = encoder_path(name)
    try:
        return AutoModel.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no encoder {name!r} here: give a local folder with its config and weights, a name the model hub "
            "knows (needs the network the first time), or --model minilm, which comes with the extra demo "
            f"({type(error).__name__})."
        ) from error


class PackedEncoder(nn.Module):
    """Gives a vector for each token of packed text, (B, L', width).

    :param width: of a vector.
    :param padding: `dynamic` trims; `fixed` computes on all L positions, as the original code does.
    """

    def __init__(self, width: int, padding: Padding) -> None:
        super().__init__()
        self.width = width
        self.padding = padding

    def prepare(self, x: Tensor) -> Tensor:
        """The part of (B, 3, L) that is computed on, (B, 3, L').

        On an accelerator the length would make the host wait, so there `x` is left as it is: strategies trim before
        they copy.
        """
        return x if self.padding == "fixed" or x.device.type != "cpu" else trim(x)


class TextEncoder(PackedEncoder):
    """Encodes packed text; its first step trims the batch, so that cost follows the real length.

    :param name: as in `load_encoder`.
    :param pooling: `mean` over real tokens, the first token (`cls`), or the encoder's own `pooler`.
    :param padding: as in `PackedEncoder`.
    :raises UsageError: unknown pooling, or `pooler` on an encoder without one.
    """

    def __init__(self, name: str, pooling: Pooling = "mean", padding: Padding = "dynamic") -> None:
        if pooling not in get_args(Pooling):
            raise UsageError(f"unknown pooling {pooling!r}. {suggest(pooling, get_args(Pooling))}")
        model = load_encoder(name)
        super().__init__(model.config.hidden_size, padding)
        self.model = model
        if pooling == "pooler" and getattr(self.model, "pooler", None) is None:
            raise UsageError(f"encoder {name!r} has no pooler: use --set pooling=mean or --set pooling=cls.")
        self.pooling = pooling
        takes = inspect.signature(self.model.forward).parameters
        self.segments = "token_type_ids" in takes and getattr(self.model.config, "type_vocab_size", 1) > 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Last hidden states (B, L', H), the pooler's output (B, H) if there is one, mask (B, L')."""
        ids, mask, segments = x[:, :3].unbind(dim=1)
        extra = {"token_type_ids": segments} if self.segments else {}
        out = self.model(input_ids=ids, attention_mask=self._attended(mask), **extra)
        return out.last_hidden_state, out.get("pooler_output"), mask.bool()

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Word embeddings (B, L', H) and mask (B, L').

        The model adds the embedding of segment 0 everywhere, so a token of another segment carries the difference.
        """
        ids, mask, segments = x[:, :3].unbind(dim=1)
        embedded = self.model.get_input_embeddings()(ids)
        if self.segments:
            types = self.model.get_submodule("embeddings.token_type_embeddings")
            embedded = embedded + (types(segments) - types(torch.zeros_like(segments)))
        return embedded, mask.bool()

    def forward_embedded(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Last hidden states (B, L', H) and the pooler's output (B, H) if there is one; see `embed`."""
        out = self.model(inputs_embeds=embedded, attention_mask=self._attended(mask.long()))
        return out.last_hidden_state, out.get("pooler_output")

    def _attended(self, mask: Tensor) -> Tensor:
        """The mask (B, L') as the model takes it.

        Of one of two axes the model looks whether any position is padding, for which the host would wait.
        """
        config = self.model.config
        fused = config.model_type in FULL_ATTENTION and config._attn_implementation == "sdpa"
        return broadcast_mask(mask) if fused and mask.device.type != "cpu" else mask

    def positions(self) -> int | None:
        """Most tokens that the model takes; None: its positions are in no table."""
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                # RoBERTa and its like begin to count behind the index of padding.
                return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        return None

    def pool(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor) -> Tensor:
        """Feature (B, H) of each text."""
        if self.pooling == "mean":
            return mean_pool(hidden, mask)
        if self.pooling == "cls":
            return hidden[:, 0]
        assert pooled is not None
        return pooled


class EncoderBackbone(Backbone):
    """A backbone whose feature is an encoder's pooled output.

    :param encoder: as in `TextEncoder`; so `pooling` and `padding`.
    :param dropout: probability of dropping a feature unit before the head.
    """

    pretrained = True
    recomputes: bool | None = False
    transient = ("recomputes",)  # a matter of the machine: another run may go on without

    def __init__(self, encoder: str, pooling: Pooling, padding: Padding, dropout: float) -> None:
        super().__init__()
        self.encoder = TextEncoder(encoder, pooling, padding)
        self.width = self.encoder.width
        self.positions = self.encoder.positions()
        self.dropout = nn.Dropout(dropout)

    def trimmed(self, x: Tensor) -> Tensor:
        return self.encoder.prepare(x)

    def represent(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        """Features (B, F) before dropout."""
        x = self.encoder.prepare(x)
        seen = self._start(x[:, 1].bool(), task_labels)
        hidden, pooled, _ = self.encoder(x)
        return self.encoder.pool(hidden, pooled, seen)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.encoder.embed(self.encoder.prepare(x))

    def features_of(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> Tensor:
        assert mask is not None
        seen = self._start(mask, task_labels)
        hidden, pooled = self.encoder.forward_embedded(embedded, mask)
        return self.dropout(self.encoder.pool(hidden, pooled, seen))

    def allow_second_derivatives(self) -> None:
        """As in `Backbone`; fused attention has none."""
        self.encoder.model.set_attn_implementation("eager")

    def recompute_activations(self) -> None:
        """As in `Backbone`; the encoder's layers know the mini-batch they belong to."""
        model = self.encoder.model
        if not model.supports_gradient_checkpointing:
            raise UsageError(f"a {type(model).__name__} does not know --gradient-checkpointing.")
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False, "context_fn": self.context.recalled})
        self.recomputes = True

    def compile_encoder(self) -> None:
        """As in `Backbone`.

        :raises UsageError: activations are to be computed again.
        """
        if self.recomputes:
            raise UsageError(NOT_BOTH)
        self.encoder.model.compile(dynamic=True)

    def set_parity(self) -> None:
        """As in `Backbone`; batches are not trimmed, so that the padding seen does not depend on the batch."""
        super().set_parity()
        self.encoder.padding = "fixed"

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        return self.dropout(self.represent(x, task_labels))

    def _start(self, mask: Tensor, task_labels: TaskLabels) -> Tensor:
        """Note the mini-batch; the positions (B, L) that operators see."""
        seen = torch.ones_like(mask) if self.parity else mask
        self.context.start(task_labels, seen)
        return seen
