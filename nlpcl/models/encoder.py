"""A Hugging Face encoder that takes text as one tensor (B, 3, L)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlpcl.errors import NOT_BOTH, UsageError, suggest
from nlpcl.models.base import Backbone, TaskLabels
from nlpcl.models.encoder_files import position_table, positions_of, refusing
from nlpcl.models.pretrained import EncoderLike, encoder_name, load_encoder
from nlpcl.options import Options, option
from nlpcl.ranges import NotAll

Pooling = Literal["mean", "cls", "pooler"]
Padding = Literal["dynamic", "fixed"]
Encoded = tuple[Tensor, Tensor | None, Tensor]
"""Token vectors (B, L, H), a pooled output (B, H) or None, and a mask (B, L), True on real tokens."""
# Every layer of these attends to the whole text, so the mask can be passed as it is.
FULL_ATTENTION: tuple[str, ...] = ("bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert")

# Encoders whose places for adapters and whose sites are known. Others may use the same names for other things:
# Longformer pads to its window, so that a text has more states than its mask.
KNOWN_LAYERS = (*FULL_ATTENTION, "data2vec-text", "deberta", "deberta-v2", "ernie", "mpnet", "rembert", "roformer")


def trim(x: Tensor) -> Tensor:
    """Cut (B, 3, L) after the longest real row, rounded up to a multiple of 8."""
    longest = int(x[:, 1].sum(dim=1).max())
    return x[:, :, : min(-(-longest // 8) * 8, x.shape[2])]


def _mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (B, L, H) over real positions, (B, H); `mask` is (B, L), True on real tokens."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def broadcast_mask(mask: Tensor) -> Tensor:
    """Return a mask (B, L) as fused attention takes it: (B, 1, 1, L), True on real tokens."""
    return mask.bool()[:, None, None, :]


class PackedEncoder(nn.Module):
    """Gives a vector for each token of packed text, (B, L', width).

    :param width: width of a vector.
    :param padding: `dynamic` trims; `fixed` computes on all L positions, as the original code does.
    """

    def __init__(self, width: int, padding: Padding) -> None:
        super().__init__()
        self.width = width
        self.padding = padding

    def prepare(self, x: Tensor) -> Tensor:
        """Cut from (B, 3, L) the padding that need not be computed on, (B, 3, L').

        Strategies do so before they copy a batch to a GPU. There `x` is left as it is, as asking for its longest text
        would make the host wait.
        """
        return x if self.padding == "fixed" or x.device.type != "cpu" else trim(x)


def check_layers(model: PreTrainedModel, backbone: str) -> None:
    """Refuse an encoder whose layers a backbone does not know.

    :raises UsageError: with those that it knows.
    """
    kind = model.config.model_type
    if kind not in KNOWN_LAYERS:
        raise UsageError(
            f"{backbone} does not know the layers of a {type(model).__name__} ({kind}); it knows those of "
            f"{', '.join(sorted(KNOWN_LAYERS))}. --backbone bert_frozen takes it with every method, bert with those "
            "that need no such layers."
        )


@contextmanager
def _apart(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout or graph, then restore its mode and the random states."""
    training = model.training
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            model.eval()
            yield
    finally:
        model.train(training)


class TextEncoder(PackedEncoder):
    """Encodes packed text, with the encoder's last hidden states as token vectors.

    :param encoder: as in `load_encoder`.
    :param pooling: `mean` over real tokens, the first token (`cls`), or the encoder's own `pooler`.
    :param padding: as in `PackedEncoder`.
    :raises UsageError: unknown pooling, or an encoder that `load_encoder` refuses or that encodes no packed text.
    """

    def __init__(self, encoder: EncoderLike, pooling: Pooling = "mean", padding: Padding = "dynamic") -> None:
        if pooling not in get_args(Pooling):
            raise UsageError(f"unknown pooling {pooling!r}. {suggest(pooling, get_args(Pooling))}")
        model = load_encoder(encoder, pooling == "pooler")
        super().__init__(getattr(model.config, "hidden_size", 0), padding)
        self.name = encoder_name(encoder)
        self.named = not isinstance(encoder, PreTrainedModel)
        """True where the encoder was given by name or folder, not as a loaded model."""
        self.model = model
        self.pooling = pooling
        takes = inspect.signature(self.model.forward).parameters
        self.segments = "token_type_ids" in takes and getattr(self.model.config, "type_vocab_size", 1) > 1
        table = position_table(model)
        # RoBERTa and its like tell padding by its id to number the tokens; the mask says it whatever the tokenizer.
        self.first = table.padding_idx if table is not None and "position_ids" in takes else None
        self.check_length(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return last hidden states (B, L', H), the pooler's output (B, H) if there is one, and the mask (B, L')."""
        out = self._encode(x)
        return out.last_hidden_state, out.get("pooler_output"), x[:, 1].bool()

    def _encode(self, x: Tensor) -> Any:
        ids, mask, segments = x[:, :3].unbind(dim=1)
        extra = {"token_type_ids": segments} if self.segments else {}
        return self.model(input_ids=ids, attention_mask=self._attended(mask), **extra, **self._placed(mask))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return word embeddings (B, L', H) and their mask (B, L').

        The model adds the embedding of segment 0 everywhere, so a token of another segment carries the difference.
        """
        ids, mask, segments = x[:, :3].unbind(dim=1)
        embedded = self.model.get_input_embeddings()(ids)
        if self.segments:
            types = self.model.get_submodule("embeddings.token_type_embeddings")
            embedded = embedded + (types(segments) - types(torch.zeros_like(segments)))
        return embedded, mask.bool()

    def forward_embedded(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return last hidden states (B, L', H) and the pooler's output (B, H) if there is one; see `embed`."""
        mask = mask.long()
        out = self.model(inputs_embeds=embedded, attention_mask=self._attended(mask), **self._placed(mask))
        return out.last_hidden_state, out.get("pooler_output")

    def _attended(self, mask: Tensor) -> Tensor:
        """Return the mask (B, L') as the model takes it.

        transformers scans a 2-D mask for padding, which synchronises the GPU; a 4-D mask is used as it is.
        """
        config = self.model.config
        fused = config.model_type in FULL_ATTENTION and config._attn_implementation == "sdpa"
        return broadcast_mask(mask) if fused and mask.device.type != "cpu" else mask

    def _placed(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the tokens' positions (B, L') as an argument, for a model that would tell padding by its id."""
        return {} if self.first is None else {"position_ids": mask.cumsum(dim=1) * mask + self.first}

    def positions(self) -> int | None:
        """Return the most tokens that the model takes, or None if its positions are in no table."""
        return positions_of(self.model)

    def check_length(self, length: int) -> None:
        """Refuse an encoder that does not give each of so many tokens a state of its text alone, the same each time.

        The second of three texts is encoded among the others and alone, with the same padding: some models mix the
        examples of a batch when the length is not the one they are made for.

        :raises UsageError: with what it does instead.
        """
        x = self._probe(length)
        x[1, 1, -(-length // 2) :] = 0
        x[2, 1, -(-length * 3 // 4) :] = 0
        with refusing(f"encoder {self.name!r} cannot encode texts of {length} tokens"), _apart(self.model):
            states, again, alone = (self._encode(texts).last_hidden_state for texts in (x, x, x[1:2]))
        expected = (len(x), length, self.width)
        if tuple(states.shape) != expected:
            raise UsageError(
                f"encoder {self.name!r} gives states {tuple(states.shape)} for {length} tokens, not {expected}."
            )
        real = x[:, 1].bool()
        if not states[real].isfinite().all():
            raise UsageError(f"encoder {self.name!r} gives states that are not finite.")
        if not torch.equal(states[real], again[real]):
            raise UsageError(f"encoder {self.name!r} gives other states each time, also without dropout.")
        within, alone = states[1, real[1]], alone[:, real[1]]
        if alone.shape[0] != 1 or not torch.isclose(alone[0], within, atol=1e-4, rtol=1e-4).all():
            raise UsageError(
                f"encoder {self.name!r} mixes the texts of a batch: one of {length} tokens has other states alone than "
                "among others."
            )

    def check_embedded(self) -> None:
        """Refuse an encoder that takes no word embeddings, or encodes them otherwise than their tokens.

        :raises UsageError: it is such an encoder.
        """
        x = self._probe(8)
        with refusing(f"encoder {self.name!r} cannot start from word embeddings"), _apart(self.model):
            expected = self._encode(x).last_hidden_state
            states = self.forward_embedded(*self.embed(x))[0]
            torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)

    def _probe(self, length: int) -> Tensor:
        """Return three texts of that length, (3, 3, L)."""
        rows = getattr(self.model.config, "vocab_size", 2)
        ids = torch.arange(3 * length).reshape(3, length) % rows
        x = torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)], dim=1)
        return x.to(next(self.model.parameters()).device)

    def pool(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor) -> Tensor:
        """Return a feature of each text, (B, H)."""
        if self.pooling == "mean":
            return _mean_pool(hidden, mask)
        if self.pooling == "cls":
            return hidden[:, 0]
        assert pooled is not None
        return pooled


class EncoderOptions(Options):
    """The options of a backbone whose feature is an encoder's pooled output."""

    pooling: Pooling = option("mean", "how token states become one feature: mean, cls or pooler")
    dropout: NotAll = option(0.1, "probability of dropping a feature unit before the head")


class EncoderBackbone(Backbone):
    """A backbone whose feature is an encoder's pooled output.

    :param encoder: `minilm`, a local folder, a hub name, or a loaded encoder, which is copied.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    """

    options_type = EncoderOptions
    options: EncoderOptions
    pretrained = True
    recomputes: bool | None = False

    def __init__(self, encoder: EncoderLike = "minilm", *, padding: Padding = "dynamic", **options: Any) -> None:
        super().__init__(**options)
        self.encoder = TextEncoder(encoder, self.options.pooling, padding)
        self.width = self.encoder.width
        self.positions = self.encoder.positions()
        self.dropout = nn.Dropout(self.options.dropout)

    def trimmed(self, x: Tensor) -> Tensor:
        return self.encoder.prepare(x)

    def represent(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        """Return features (B, F) before dropout."""
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
        features: Tensor = self.dropout(self.encoder.pool(hidden, pooled, seen))
        return features

    def check_embedded(self) -> None:
        """As in `Backbone`."""
        self.encoder.check_embedded()

    def allow_second_derivatives(self) -> None:
        """Do without fused attention, which has none."""
        self.encoder.model.set_attn_implementation("eager")

    def recompute_activations(self) -> None:
        """Do as in `Backbone`; when a layer is computed again, `context` holds its mini-batch again."""
        model = self.encoder.model
        if not model.supports_gradient_checkpointing:
            raise UsageError(f"a {type(model).__name__} does not know --gradient-checkpointing.")
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False, "context_fn": self.context.recalled})
        self.recomputes = True

    def compile_encoder(self) -> None:
        """Do as in `Backbone`.

        :raises UsageError: activations are to be computed again, too.
        """
        if self.recomputes:
            raise UsageError(NOT_BOTH)
        self.encoder.model.compile(dynamic=True)

    def set_parity(self) -> None:
        """Do as in `Backbone`, and trim no batches, so that the padding seen does not depend on the batch."""
        super().set_parity()
        self.encoder.padding = "fixed"

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        features: Tensor = self.dropout(self.represent(x, task_labels))
        return features

    def _start(self, mask: Tensor, task_labels: TaskLabels) -> Tensor:
        """Note the mini-batch in `context`; return the positions (B, L) that operators see."""
        seen = torch.ones_like(mask) if self.parity else mask
        self.context.start(task_labels, seen)
        return seen
