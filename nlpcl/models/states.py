"""Token states of a frozen encoder: each example passes it once, and training reads them from a memory-mapped file."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from torch import Tensor, nn

from nlpcl.config.files import allocate, replacing, sha256, stamp_of
from nlpcl.errors import UsageError, is_out_of_memory
from nlpcl.models.data import BenchmarkData, EncodedTexts
from nlpcl.models.encoder import TextEncoder, check_pair, encoder_for
from nlpcl.models.encoder_files import EncoderLike

_FORMAT = "3"
_BATCH_SIZE = 64
_DIGEST_BYTES = 32
"""Length of the digest at the end of the file, which numpy does not read."""
_log = logging.getLogger(__name__)


class TokenStates(nn.Module):
    """The last hidden states of a benchmark's tokens, in the place of a `TextEncoder`.

    :param table: float16 (N, H), one row for each real token. On the host it is mapped, not read; to a GPU it is
        copied with the model.
    :param encoder: the name of the encoder that computed them.
    """

    table: Tensor

    def __init__(self, table: Tensor, encoder: str) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.encoder = encoder
        self.width = table.shape[1]

    def forward(self, x: Tensor) -> tuple[Tensor, None, Tensor]:
        """Return states (B, L, H) in float32, no pooled output, and the mask (B, L) of examples (B, 4, L)."""
        return self.table[x[:, 3]].float(), None, x[:, 1].bool()

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenStates:
        return self  # it never changes, and may be larger than the memory


def precompute(
    benchmark: BenchmarkData,
    encoder: EncoderLike | None = None,
    *,
    device: str | torch.device = "cpu",
    splits: Sequence[str] = ("train", "valid", "test"),
    tasks: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStates:
    """Compute an encoder's token states for a text benchmark, once per example, or read those of an earlier call.

    Afterwards examples of the benchmark are (4, L): the fourth row says where each token's state lies in
    `benchmark.states`, which `build_model` hands to a backbone `bert_frozen`. The encoder's dropout is off. One file in
    the user's cache folder holds the states of the real tokens in float16, 2 H bytes each, whatever the tasks' order.
    Its SHA-256 is checked once in a process; a file that is damaged is made anew.

    :param benchmark: of texts, tokenised for `encoder`.
    :param encoder: as in `TextEncoder`; None: the one that the benchmark's tokenizer belongs to.
    :param device: where the encoder computes.
    :param splits: splits whose states are wanted; examples of the others stay (3, L), and the encoder sees none.
    :param tasks: number of tasks, from the first, whose states are wanted; None means all.
    :param progress: called with the number of examples done, and of all.
    :raises UsageError: the benchmark holds no tokenised texts, `build_model` would refuse the encoder, or the file
        cannot be written.
    """
    packed = benchmark.packed
    if not packed:
        raise UsageError("token states need a text benchmark that is tokenised for an encoder.")
    model = TextEncoder(encoder_for(benchmark, encoder))
    check_pair(benchmark, model)
    parts = sorted((part for split in splits for part in packed[split][:tasks]), key=lambda part: part.digest())
    rows = 0
    for part in parts:
        part.first = rows + part.lengths.cumsum(0) - part.lengths
        rows += int(part.lengths.sum())
    shape = (rows, model.width)
    file = states_folder() / f"{_key(model, parts)}.npy"
    table = _load(file, shape)
    if table is None:
        try:
            _make(file, shape, model.eval().to(device), parts, progress)
        except OSError as error:
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"the encoder's states take {2 * shape[0] * shape[1] / 1e9:.3g} GB and cannot be written to "
                f"{file.parent} ({error.strerror}): make room there, or name another folder in XDG_CACHE_HOME."
            ) from error
        table = _load(file, shape)
        assert table is not None
    benchmark.states = states = TokenStates(table, model.name)
    return states


def states_folder() -> Path:
    """Return the folder of token states, `states` in the user's cache folder for nlpcl."""
    return Path(pooch.os_cache("nlpcl")) / "states"


def _key(model: nn.Module, parts: Sequence[EncodedTexts]) -> str:
    """Return a SHA-256 of all that decides the states: the encoder's weights and the tokens."""
    digest = hashlib.sha256(_FORMAT.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    for part in parts:
        digest.update(part.digest().encode())
    return digest.hexdigest()


def _load(file: Path, shape: tuple[int, int]) -> Tensor | None:
    """Return a file's states, mapped; None if there is no such file, or it is not what it should be.

    :raises OSError: there is no memory to map it.
    """
    if not file.is_file():
        return None
    try:
        if _is_whole(file, stamp_of(file)):
            array = np.load(file, mmap_mode="c", allow_pickle=False)
            if (array.shape, array.dtype) == (shape, np.float16):
                return torch.from_numpy(array)
    except (OSError, ValueError) as error:  # cut short, another format, or it cannot be read
        if is_out_of_memory(error):
            raise
    _log.warning("%s is damaged and made anew", file)
    return None


@functools.cache  # runs in one process need not read a large file again
def _is_whole(file: Path, stamp: tuple[int, ...]) -> bool:
    """Return whether a file of this `stamp_of` ends with the digest of its key and states."""
    size = file.stat().st_size - _DIGEST_BYTES
    with file.open("rb") as stored:
        stored.seek(size)
        return stored.read() == _digest(file, file.stem, size)


def _digest(file: Path, key: str, size: int) -> bytes:
    """Return a SHA-256 of a key and the first `size` bytes of a file, so that no file passes under another's name."""
    return hashlib.sha256(f"{key} {sha256(file, size)}".encode()).digest()


def _make(
    file: Path,
    shape: tuple[int, int],
    model: TextEncoder,
    parts: Sequence[EncodedTexts],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the states of all examples.

    The file takes its room before the encoder begins, and is written, not mapped: a map of a file for which the disk
    has no room kills the process.

    :raises OSError: it cannot be written.
    """
    done, total = 0, sum(len(part) for part in parts)
    row_bytes = shape[1] * np.dtype(np.float16).itemsize
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float16))
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
        start = out.tell()
        end = start + shape[0] * row_bytes
        allocate(out.fileno(), end + _DIGEST_BYTES)
        for batch in _encoded(model, parts):
            for first, states in batch:
                out.seek(start + first * row_bytes)
                out.write(states.numpy().tobytes())
            done += len(batch)
            if progress is not None:
                progress(done, total)
        out.flush()
        out.seek(end)
        out.write(_digest(temporary, file.stem, end))


@torch.inference_mode()
def _encoded(model: TextEncoder, parts: Sequence[EncodedTexts]) -> Iterator[list[tuple[int, Tensor]]]:
    """Give for each text of a batch the row of its first token, and the states (n, H) of its real tokens in float16.

    :raises UsageError: a state is not finite.
    """
    device = next(model.parameters()).device
    for part in parts:
        # Of like length, the longest first, so that little of a batch is padding.
        for rows in part.lengths.argsort(descending=True, stable=True).split(_BATCH_SIZE):
            x = model.prepare(torch.stack([part[row][0] for row in rows.tolist()]))
            real = x[:, 1].bool()
            states = model(x.to(device))[0].half().cpu()
            if not states[real].isfinite().all():
                raise UsageError("this encoder's states are not finite in float16, so it cannot be a frozen one.")
            lengths = real.sum(dim=1).tolist()
            yield [
                (first, text[:length]) for first, text, length in zip(x[:, 3, 0].tolist(), states, lengths, strict=True)
            ]
