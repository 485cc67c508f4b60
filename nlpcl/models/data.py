"""Name the fields of a benchmark that models read. `nlpcl.benchmarks.Benchmark`, in a layer above, has all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from nlpcl.registry import Modality

if TYPE_CHECKING:
    from nlpcl.models.states import TokenStates


class WordVectors(Protocol):
    """Vectors of words."""

    @property
    def matrix(self) -> Tensor:
        """Vectors (words, D), by id."""


class EncodedTexts(Protocol):
    """Examples tokenised for an encoder: each is ids, attention mask and segments, and a class."""

    first: Tensor | None
    """Where the state of each example's first token lies, LongTensor (N,); None means that there are no states."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...
    @property
    def lengths(self) -> Tensor:
        """Number of real tokens of each example, LongTensor (N,)."""

    def digest(self) -> str:
        """Return the SHA-256 of what an encoder sees."""


class BenchmarkData(Protocol):
    """The fields that decide a model's shape, and the texts that a frozen encoder reads once."""

    modality: Modality
    scenario: str
    input_shape: tuple[int, ...]
    tokenizer: Any
    tokenizer_name: str
    max_length: int | None
    n_classes: list[int]
    states: TokenStates | None

    @property
    def vectors(self) -> WordVectors | None: ...
    @property
    def packed(self) -> Mapping[str, Sequence[EncodedTexts]]: ...
