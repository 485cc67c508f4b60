"""A Hugging Face encoder that takes text as one tensor (B, 3, L)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlpcl.config.encoders import TOKENIZER, encoder_path
from nlpcl.errors import NOT_BOTH, UsageError, check_known
from nlpcl.models.base import Backbone, TaskLabels
from nlpcl.models.data import BenchmarkData
from nlpcl.models.encoder_files import (
    EncoderLike,
    check_vocabulary,
    encoder_folder,
    encoder_name,
    load_encoder,
    read_tokenizer,
    refusing,
)
from nlpcl.models.positions import check_max_length, position_table, positions_of
from nlpcl.options import Options, option
from nlpcl.ranges import NotAll

Pooling = Literal["mean", "cls", "pooler"]
Padding = Literal["dynamic", "fixed"]
# Every layer of these attends to the whole text, so the mask can be passed as it is.
FULL_ATTENTION: tuple[str, ...] = ("bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert")

# Encoders whose places for adapters and whose sites are known. Others may use the same names for other things:
# Longformer pads to its window, so that a text has more states than its mask.
KNOWN_LAYERS = (*FULL_ATTENTION, "data2vec-text", "deberta", "deberta-v2", "ernie", "mpnet", "rembert", "roformer")


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
        """Cut from (B, 3, L) the padding that need not be computed on, (B, 3, L'), L' being a multiple of 8.

        Strategies do so before they copy a batch to a GPU. There `x` is left as it is, as asking for its longest text
        would make the host wait.
        """
        if self.padding == "fixed" or x.device.type != "cpu":
            return x
        longest = int(x[:, 1].sum(dim=1).max())
        return x[:, :, : min(-(-longest // 8) * 8, x.shape[2])]


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


class TextEncoder(PackedEncoder):
    """Encodes packed text, with the encoder's last hidden states as token vectors.

    :param encoder: as in `load_encoder`.
    :param pooling: `mean` over real tokens, the first token (`cls`), or the encoder's own `pooler`.
    :param padding: as in `PackedEncoder`.
    :raises UsageError: unknown pooling, or an encoder that `load_encoder` refuses or that encodes no packed text.
    """

    def __init__(self, encoder: EncoderLike, pooling: Pooling = "mean", padding: Padding = "dynamic") -> None:
        check_known([pooling], get_args(Pooling), "unknown pooling")
        model = load_encoder(encoder, pooling == "pooler")
        super().__init__(getattr(model.config, "hidden_size", 0), padding)
        self.name = encoder_name(encoder)
        self.named = not isinstance(encoder, PreTrainedModel)
        """True where the encoder was given by name or folder, not as a loaded model."""
        self.model = model
        self.pooling = pooling
        takes = inspect.signature(self.model.forward).parameters
        self.segments = "token_type_ids" in takes and getattr(self.model.config, "type_vocab_size", 1) > 1
        self.positions = positions_of(model)
        """The most tokens that the model takes; None means that its positions are in no table."""
        # RoBERTa and its like tell padding by its id; the mask says it whatever the tokenizer.
        table = position_table(model)
        self.first = table.padding_idx if table is not None and "position_ids" in takes else None
        self.check_length(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return last hidden states (B, L', H), the pooler's output (B, H) if there is one, and the mask (B, L')."""
        ids, mask, segments = x[:, :3].unbind(dim=1)
        types = {"token_type_ids": segments} if self.segments else {}
        return *self._encode(mask, input_ids=ids, **types), mask.bool()

    def _encode(self, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return last hidden states and the pooler's output, if there is one."""
        config = self.model.config
        fused = config.model_type in FULL_ATTENTION and config._attn_implementation == "sdpa"
        if self.first is not None:
            inputs["position_ids"] = mask.cumsum(dim=1) * mask + self.first
        # transformers scans a 2-D mask for padding, which synchronises the GPU; a 4-D mask is used as it is.
        attended = broadcast_mask(mask) if fused and mask.device.type != "cpu" else mask
        out = self.model(attention_mask=attended, **inputs)
        return out.last_hidden_state, out.get("pooler_output")

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
        return self._encode(mask.long(), inputs_embeds=embedded)

    def check_length(self, length: int) -> None:
        """Refuse an encoder that does not give each of so many tokens a state of its text alone, the same each time.

        The second of three texts is encoded among the others and alone, with the same padding: some models mix the
        examples of a batch when the length is not the one they are made for.

        :raises UsageError: with what it does instead.
        """
        with self._probing(f"cannot encode texts of {length} tokens", length) as x:
            x[1, 1, -(-length // 2) :] = 0
            x[2, 1, -(-length * 3 // 4) :] = 0
            states, again, alone = (self(texts)[0] for texts in (x, x, x[1:2]))
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
        with self._probing("cannot start from word embeddings", 8) as x:
            states = self.forward_embedded(*self.embed(x))[0]
            torch.testing.assert_close(states, self(x)[0], atol=1e-4, rtol=1e-4)

    @contextmanager
    def _probing(self, fault: str, length: int) -> Iterator[Tensor]:
        """Give three texts of a length, (3, 3, L), to encode without dropout or graph; the random states stay.

        :raises UsageError: the model raises an error; the sentence says `fault`.
        """
        ids = torch.arange(3 * length).reshape(3, length) % getattr(self.model.config, "vocab_size", 2)
        x = torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)], dim=1)
        training = self.model.training
        try:
            with refusing(f"encoder {self.name!r} {fault}"), torch.inference_mode(), torch.random.fork_rng(devices=[]):
                self.model.eval()
                yield x.to(next(self.model.parameters()).device)
        finally:
            self.model.train(training)

    def pool(self, hidden: Tensor, pooled: Tensor | None, mask: Tensor) -> Tensor:
        """Return a feature of each text, (B, H)."""
        if self.pooling == "mean":  # over real positions
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        if self.pooling == "cls":
            return hidden[:, 0]
        assert pooled is not None
        return pooled


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
    tokenizer = benchmark.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        if encoder.named and _other_vocabulary(encoder.name, tokenizer, benchmark.tokenizer_name):
            raise UsageError(
                f"the benchmark is tokenised for {benchmark.tokenizer_name or 'another encoder'}, and encoder "
                f"{encoder.name} has another vocabulary: make the benchmark with tokenizer={encoder.name!r}, or leave "
                "the encoder out."
            )
        check_vocabulary(tokenizer, getattr(encoder.model.config, "vocab_size", None), encoder.name)
    check_max_length(benchmark.max_length, tokenizer, encoder.positions, encoder.name)
    if encoder.model.config.model_type not in FULL_ATTENTION:
        encoder.check_length(benchmark.max_length)  # it may pad to its own window, or count positions in another way


def _other_vocabulary(encoder: str, tokenizer: PreTrainedTokenizerBase, origin: str) -> bool:
    """Return whether an encoder has a tokenizer of its own that gives other ids.

    :param origin: where `tokenizer` says that it comes from; it may be empty, and there may be nothing now.
    """
    with suppress(UsageError):
        if origin and Path(encoder_path(encoder)).resolve() == Path(encoder_path(origin)).resolve():
            return False
    folder = encoder_folder(encoder)
    has_tokenizer = any(next(folder.glob(pattern), None) for pattern in TOKENIZER)
    return has_tokenizer and bool(read_tokenizer(folder).get_vocab() != tokenizer.get_vocab())


class TextBackbone(Backbone):
    """A backbone whose `encoder` gives a vector for each token.

    With `parity` it trims no batches, so that the padding seen does not depend on the batch.
    """

    encoder: PackedEncoder

    def set_parity(self) -> None:
        super().set_parity()
        self.encoder.padding = "fixed"

    def trimmed(self, x: Tensor) -> Tensor:
        return self.encoder.prepare(x)

    def start(self, mask: Tensor, task_labels: TaskLabels) -> Tensor:
        """Note the mini-batch in `context`; return the positions (B, L) that operators see, with `parity` all."""
        seen = torch.ones_like(mask) if self.parity else mask
        self.context.start(task_labels, seen)
        return seen


class EncoderOptions(Options):
    """The options of a backbone whose feature is an encoder's pooled output."""

    pooling: Pooling = option("mean", "how token states become one feature: mean, cls or pooler")
    dropout: NotAll = option(0.1, "probability of dropping a feature unit before the head")


class EncoderBackbone(TextBackbone):
    """A backbone whose feature is an encoder's pooled output.

    :param encoder: `minilm`, a local folder, a hub name, or a loaded encoder, which is copied.
    :param padding: dynamic trims batches to their longest text, fixed does not.
    """

    options_type = EncoderOptions
    options: EncoderOptions
    encoder: TextEncoder
    pretrained = True
    recomputes: bool | None = False

    def __init__(self, encoder: EncoderLike = "minilm", *, padding: Padding = "dynamic", **options: Any) -> None:
        super().__init__(**options)
        self.encoder = TextEncoder(encoder, self.options.pooling, padding)
        self.width = self.encoder.width
        self.positions = self.encoder.positions
        self.dropout = nn.Dropout(self.options.dropout)
        if self.options.pooling != "pooler":
            self._freeze_pooler()

    def set_parity(self) -> None:
        """Do as in `Backbone`, and freeze the pooler, which the original toolkit left out of the optimizer."""
        super().set_parity()
        self._freeze_pooler()

    def _freeze_pooler(self) -> None:
        pooler = getattr(self.encoder.model, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(False)

    def represent(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        """Return features (B, F) before dropout."""
        x = self.encoder.prepare(x)
        seen = self.start(x[:, 1].bool(), task_labels)
        hidden, pooled, _ = self.encoder(x)
        return self.encoder.pool(hidden, pooled, seen)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.encoder.embed(self.encoder.prepare(x))

    def features_of(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> Tensor:
        assert mask is not None
        seen = self.start(mask, task_labels)
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

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        features: Tensor = self.dropout(self.represent(x, task_labels))
        return features
