"""What the user is told of a run that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate

from nlpcl.config.spec import CompleteSpec
from nlpcl.errors import UsageError
from nlpcl.training.torch_internals import COMPILER_ERRORS


@contextmanager
def explaining(strategy: SupervisedTemplate[Any, Any, Any] | None, spec: CompleteSpec) -> Iterator[None]:
    """Turn an error that is no fault of the program into a sentence on what to do.

    :param strategy: the one that trains; None means that it is being made.
    :raises UsageError: memory ran out, or torch cannot compile the encoder.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            failure = UsageError(_out_of_memory(strategy, spec))
        elif type(error).__module__ in COMPILER_ERRORS:
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            failure = UsageError(f"torch cannot compile the encoder here ({why}): leave --compile out.")
        else:
            raise
        failure.of_one_process = True
        raise failure from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether this is an out-of-memory error: CPU and cuBLAS raise a plain RuntimeError, known by its text."""
    words = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def _out_of_memory(strategy: SupervisedTemplate[Any, Any, Any] | None, spec: CompleteSpec) -> str:
    if strategy is None:
        return "out of memory before the training: what --model, --backbone or --set ask for is too large."
    if not strategy.is_training:
        return f"out of memory at test: try an --eval-batch-size below {strategy.eval_mb_size}, or --precision bf16."
    recomputes = getattr(getattr(strategy.model, "backbone", None), "recomputes", None)
    less = ", --gradient-checkpointing" if recomputes is False else ""
    return (
        f"out of memory with --train-batch-size {spec.train_batch_size}: try a smaller one{less} or --precision bf16."
    )
