"""Several processes that train one model together; in a process alone every function leaves things as they are.

All hold the same data, model and random states and draw the same mini-batches. Of each a process computes every N-th
row, and what is found of them is summed, so that each goes on with the gradient of the whole mini-batch: parameters,
masks, memories and importances stay the same everywhere. What is drawn between a mini-batch's forward and backward
pass, such as dropout, is drawn by each process for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from avalanche.distributed import DistributedHelper
from torch import Tensor, nn
from torch import distributed as dist

from nlpcl.errors import UsageError
from nlpcl.training.launch import launched, local_rank
from nlpcl.training.runtime import choose_device

LONGEST_WAIT = timedelta(hours=6)
"""For a process that computes what the others then find in the cache; one that died is noticed at once."""
LONGEST = 4096
"""Bytes of a message that one process passes on to the others."""


def world_size() -> int:
    """Number N of processes."""
    return DistributedHelper.world_size


def rank() -> int:
    """Number of this process, from 0."""
    return DistributedHelper.rank


def is_rank_zero() -> bool:
    """Whether this is the process that writes and speaks."""
    return DistributedHelper.is_main_process


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Within it, the processes that torchrun started are one group; gives the device of this one.

    A group that exists already is used and left as it is.

    :param device: as in `choose_device`; `auto` and `cuda` give each process of a machine a GPU of its own.
    :raises UsageError: there is no device for each process.
    """
    if not launched() and not dist.is_initialized():
        yield choose_device(device)
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if here > torch.cuda.device_count():
            raise UsageError(
                f"{here} processes on a machine need {here} GPUs, and this one has {torch.cuda.device_count()}: start "
                "fewer, or --device cpu."
            )
        device = f"cuda:{local_rank()}"  # Avalanche's helper takes the global rank, which several machines exceed
    elif device.startswith("cuda:") and here > 1:
        raise UsageError(f"each process needs a GPU of its own: --device cuda, not {device}.")
    place = choose_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if dist.is_initialized():
        yield place
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        barrier()  # no process leaves, say with a mistake, while another still looks for it
        yield place
    finally:
        dist.destroy_process_group()


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """What a user's mistake stops in one process stops all of them, with the same words.

    :raises UsageError: that of the first process that has one.
    """
    message = ""
    try:
        yield
    except UsageError as error:
        if world_size() == 1:
            raise
        message = str(error)
    failed = all_reduce_max(world_size() - rank() if message else 0)
    if failed:
        content = message.encode()[:LONGEST].ljust(LONGEST, b"\0")
        said = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(said, world_size() - failed)
        raise UsageError(bytes(said.tolist()).rstrip(b"\0").decode(errors="ignore"))


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """The first process of each machine goes first, so that the others find in the cache what it made."""
    if local_rank() > 0:
        barrier()
    try:
        yield
    finally:
        if local_rank() == 0:
            barrier()


def shard_index() -> tuple[int, int]:
    """Number of this process and of all: it takes the rows [number :: all]."""
    return rank(), world_size()


def local_rows(n: int) -> range:
    """Which of the n rows of a mini-batch are this process's; none if there are fewer rows than processes before it."""
    return range(rank(), n, world_size())


def shard(rows: Tensor) -> Tensor:
    """Of rows (n, ...) this process's; if it has none the first, so that it takes part, to count for nothing."""
    if world_size() == 1:
        return rows
    return rows[rank() :: world_size()] if local_rows(len(rows)) else rows[:1]


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose gradient is the sum over the processes of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce(x.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce(grads[0].contiguous().clone())


def all_gather(x: Tensor, n: int) -> Tensor:
    """All n rows of something, in their order, of which each process has its own (see `shard`); differentiable.

    :param x: this process's rows.
    :param n: number of all.
    """
    if world_size() == 1:
        return x
    places = local_rows(n)
    rows = torch.arange(n, device=x.device)[rank() :: world_size()]
    placed: Tensor = _Sum.apply(x.new_zeros(n, *x.shape[1:]).index_copy(0, rows, x[: len(places)]))
    return placed


def all_gather_ints(parts: Sequence[Tensor]) -> Tensor:
    """Whole numbers (n,) of all processes, on the host, of which each has its own rows' in parts (b,), or has none."""
    if world_size() == 1:
        return torch.cat(list(parts))
    found = torch.cat(list(parts)).cpu() if parts else torch.empty(0, dtype=torch.long)
    return all_gather(found, int(all_reduce(torch.tensor(len(found)))))


def all_reduce_rows(x: Tensor, n: int) -> Tensor:
    """Sum over the processes of what each has found of its own of n rows; without a gradient."""
    return x if world_size() == 1 else all_reduce(x.clone() if local_rows(n) else torch.zeros_like(x))


def all_reduce(x: Tensor) -> Tensor:
    """x, in place the sum over the processes."""
    _reduce(x, dist.ReduceOp.SUM)
    return x


def barrier() -> None:
    """Wait until every process has come here."""
    all_reduce_max(0)


def all_reduce_max(number: int) -> int:
    """Return the largest of the processes' numbers."""
    if world_size() == 1:
        return number
    numbers = torch.tensor(number)
    _reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def broadcast(numbers: Sequence[int]) -> list[int]:
    """The first process's numbers; the others give as many."""
    return list(numbers) if world_size() == 1 else all_reduce(torch.tensor(numbers) * is_rank_zero()).tolist()


def _reduce(x: Tensor, operation: Any) -> None:
    if world_size() == 1:
        return
    try:
        dist.all_reduce(x, operation)
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        raise UsageError(f"another process of this run ended, and so does this one ({reason}).") from error


def weigh_loss(loss: Tensor, n: int) -> Tensor:
    """This process's part of the mean loss over n rows, given the mean over its own.

    The parts add up to 1, so a term that is the same everywhere, such as a penalty, counts once.
    """
    return loss if world_size() == 1 else loss * (len(local_rows(n)) / n)


def all_reduce_gradients(parameters: Iterable[Tensor], loss: Tensor, alike: bool) -> Tensor:
    """Make each gradient the sum over the processes, in one message; gives the sum of the losses.

    A parameter without a gradient in every process keeps none.

    :param parameters: the same in every process.
    :param loss: this process's part.
    :param alike: whether all processes have gradients of the same parameters.
    """
    parameters = list(parameters)
    if not alike:
        reached = all_reduce(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)).tolist()
        for p, known in zip(parameters, reached, strict=True):
            if known and p.grad is None:
                p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = all_reduce(torch.cat([*(g.flatten() for g in gradients), loss.detach().reshape(1)]))
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients] + [1]), strict=False):
        g.copy_(part.view_as(g))
    return flat[-1].clone()


@torch.no_grad()
def broadcast_model(model: nn.Module) -> None:
    """Give all processes the first one's values of what trains and of the buffers."""
    if world_size() == 1:
        return
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and name not in frozen:
            dist.broadcast(value, 0)


RngState = tuple[Tensor, Tensor | None]


def fork_rng(device: torch.device, step: int) -> RngState | None:
    """From now on draw what follows from the seed, this process and the step alone; the states to go back to."""
    if world_size() == 1:
        return None
    common = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    entropy = np.random.SeedSequence((torch.initial_seed(), rank(), step)).generate_state(1, np.uint64)
    torch.manual_seed(int(entropy[0]))
    return common


def restore_rng(states: RngState | None, device: torch.device) -> None:
    """Draw again what all processes draw."""
    if states is not None:
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state(states[1], device)
