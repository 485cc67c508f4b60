"""Runs that end before their end: what the user is told."""

from __future__ import annotations

from typing import Any

import torch

from nlpcl.config.spec import RunSpec
from nlpcl.errors import UsageError
from nlpcl.records.record import Record


class Failed(UsageError):
    """A run that ended before its end; `record` says how far it came."""

    def __init__(self, message: str, record: Record) -> None:
        super().__init__(message)
        self.record = record


def of_memory(error: Exception) -> bool:
    """Whether an error is the lack of memory; the CPU's has no class of its own, nor cuBLAS's."""
    words = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def explained(error: Exception, strategy: Any, spec: RunSpec) -> str | None:
    """What the user is told of an error that is no mistake of the program; None: it is one.

    :param strategy: the one at work; None: it was about to be made.
    """
    if of_memory(error):
        return out_of_memory(strategy, spec)
    if type(error).__module__ in ("torch._dynamo.exc", "torch._inductor.exc"):
        why = str(error).strip().partition("\n")[0]
        return f"torch cannot compile the encoder here ({type(error).__name__}: {why}): leave --compile out."
    return None


def out_of_memory(strategy: Any, spec: RunSpec) -> str:
    """What to do about it.

    :param strategy: the one at work; None: it was about to be made.
    """
    if strategy is None:
        return "out of memory before the training: what --model, --backbone or --set ask for is too large."
    if not strategy.is_training:
        return f"out of memory at test: try an --eval-batch-size below {strategy.eval_mb_size}, or --precision bf16."
    recomputes = getattr(getattr(strategy.model, "backbone", None), "recomputes", None)
    less = ", --gradient-checkpointing" if recomputes is False else ""
    return (
        f"out of memory with --train-batch-size {spec.train_batch_size}: try a smaller one{less} or --precision bf16."
    )
