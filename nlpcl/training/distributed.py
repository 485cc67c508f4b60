"""Several processes that train one model together; in a single process every function changes nothing.

All processes hold the same data, model and random states and draw the same mini-batches. Each computes every N-th row
of a mini-batch, and the results are summed, so that all go on with the gradient of the whole mini-batch: parameters,
masks, memories and importances stay the same everywhere. Between a mini-batch's forward and backward pass each process
draws its own random numbers, for dropout as an example.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from avalanche.distributed import DistributedHelper
from torch import Tensor, nn
from torch import distributed as dist

from nlpcl.errors import OneProcessError, UsageError, printable
from nlpcl.training.device import choose_device
from nlpcl.training.internals import set_timeout
from nlpcl.training.launch import Launch, launch, local_rank

START_SECONDS = 20.0
"""At the start a process waits so long for the others, at most twice so, unless `START_VARIABLE` is set."""
START_VARIABLE = "NLPCL_START_SECONDS"
LONGEST_WAIT = timedelta(hours=6)
"""One process may compute for hours what the others then find in the cache; one that died is noticed at once."""
ALIKE = "start all processes with the same command, files and versions"
_GROUPS = itertools.count()
MESSAGE_BYTES = 4096
"""Bytes of an error message that one process passes on to the others."""


def world_size() -> int:
    """Return the number N of processes."""
    return DistributedHelper.world_size


def rank() -> int:
    """Return the number of this process, from 0."""
    return DistributedHelper.rank


def is_rank_zero() -> bool:
    """Return whether this is the process that writes files and shows progress."""
    return DistributedHelper.is_main_process


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started into one group; give the device of this one.

    A group that exists already is used and left as it is.

    :param device: as in `choose_device`; `auto` and `cuda` give each process of a machine a GPU of its own.
    :raises UsageError: there is no device for each process, or they do not come together.
    """
    started = launch()
    if started is None and not dist.is_initialized():
        yield choose_device(device)
        return
    local_processes = 1 if started is None else started.local_world_size
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if local_processes > torch.cuda.device_count():
            raise UsageError(
                f"{local_processes} processes on a machine need {local_processes} GPUs, and this one has "
                f"{torch.cuda.device_count()}: start fewer, or --device cpu."
            )
        device = f"cuda:{local_rank()}"  # Avalanche's helper takes the global rank, which several machines exceed
    elif device.startswith("cuda:") and local_processes > 1:
        raise UsageError(f"each process needs a GPU of its own: --device cuda, not {device}.")
    place = choose_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    with ExitStack() as stack:
        if started is not None and not dist.is_initialized():
            stack.callback(_leave)
            _join(started, "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
        yield place


def _join(started: Launch, backend: str) -> None:
    """Make the group of all processes; each waits for the others for a short time only.

    :raises UsageError: they do not come together.
    """
    text = os.environ.get(START_VARIABLE, str(START_SECONDS))
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", text) or not float(text):
        raise OneProcessError(f"{START_VARIABLE} is {text[:60]!r}, and not a number of seconds above 0.")
    patience = timedelta(seconds=float(text))
    size, number = started.world_size, started.rank
    try:
        store = _store(patience)
        # torchrun keeps its store while it starts the processes again, and they may make several groups.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"nlpcl/{restart}/{next(_GROUPS)}", store)
        if store.add(f"rank {number}", 1) > 1:
            raise OneProcessError(f"two processes have RANK {number}: give each a number of its own, as torchrun does.")
        if number == 0:
            store.set("size", str(size))
        elif (first := int(store.get("size"))) != size:
            raise OneProcessError(f"rank {number} has WORLD_SIZE {size}, rank 0 has WORLD_SIZE {first}: {ALIKE}.")
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=patience)
        dist.all_reduce(torch.zeros(1))  # or one that ends early would be gone before another has found it
    except RuntimeError as error:
        raise OneProcessError(
            f"process {number} of {size} does not find the others at {started.address[:60]}:{started.port} "
            f"({_reason(error)}): start all, each with a RANK of its own, at a host and a free port that all reach; "
            f"{START_VARIABLE}=300 waits longer."
        ) from error
    set_timeout(LONGEST_WAIT)


def _store(patience: timedelta) -> dist.Store:
    """Return the store by which the processes find each other.

    A thread makes it: in this one no signal would be heard, and torch waits for ever for a server that says nothing.

    :raises RuntimeError: the others cannot be reached.
    """
    made: list[dist.Store | RuntimeError] = []

    def make() -> None:
        try:
            made.append(next(dist.rendezvous("env://", timeout=patience))[0])
        except RuntimeError as error:
            made.append(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(2 * patience.total_seconds() + 2)  # torch itself takes up to twice its limit
    found = made[0] if made else RuntimeError("what listens there gives no answer")
    if isinstance(found, RuntimeError):
        raise found
    return found


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def check_alike(facts: Mapping[str, object]) -> None:
    """Refuse a run whose processes differ; nothing of what one sends to another is unpickled.

    :param facts: what must be the same in all processes, by name.
    :raises UsageError: in all of them, with the first difference to the first process.
    """
    if world_size() == 1:
        return
    texts = {name: _cut(str(value)) for name, value in facts.items()}
    content = json.dumps(texts).encode()
    size = all_reduce_max(len(content))
    sent = torch.frombuffer(bytearray(content.ljust(size)), dtype=torch.uint8)
    received = [torch.empty_like(sent) for _ in range(world_size())]
    with _others_alive():
        dist.all_gather(received, sent)
    first, *others = (json.loads(bytes(buffer.tolist())) for buffer in received)
    for number, other in enumerate(others, 1):
        for name in {**first, **other}:
            has, had = other.get(name, "none"), first.get(name, "none")
            if has != had:
                raise UsageError(f"rank {number} has {name} {has}, rank 0 has {name} {had}: {ALIKE}.")


def _cut(text: str) -> str:
    """Return a text, or the start and a digest of a long one."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return text if len(text) <= 60 else f"{text[:40]}...{digest[:12]}"


def _reason(error: RuntimeError) -> str:
    """Return what torch says of a failed exchange, without its advice."""
    return printable(str(error).partition(". ")[0]).rstrip(".")[:120]


@contextmanager
def _others_alive() -> Iterator[None]:
    """Say in a sentence that an exchange failed.

    :raises UsageError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise OneProcessError(f"another process of this run ended, and so does this one ({_reason(error)}).") from error


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Re-raise a UsageError of any process in all of them.

    :raises UsageError: that of the lowest rank that has one.
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
        content = message.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0")
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with _others_alive():
            dist.broadcast(buffer, world_size() - failed)
        raise UsageError(bytes(buffer.tolist()).rstrip(b"\0").decode(errors="ignore"))


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Let the first process of each machine go first, so that the others find in the cache what it made."""
    if local_rank() > 0:
        barrier()
    try:
        yield
    finally:
        if local_rank() == 0:
            barrier()


def shard_index() -> tuple[int, int]:
    """Return (r, N): this process takes the rows r, r + N, ..."""
    return rank(), world_size()


def local_rows(n: int) -> range:
    """Return which of the n rows of a mini-batch this process computes; a small mini-batch may leave it none."""
    return range(rank(), n, world_size())


def shard(rows: Tensor) -> Tensor:
    """Return this process's share of rows (n, ...).

    If it has none, it gets the first row, so that it takes part in the collectives; that row counts for nothing.
    """
    if world_size() == 1:
        return rows
    return rows[rank() :: world_size()] if local_rows(len(rows)) else rows[:1]


class _Sum(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of the gradients over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce(x.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce(grads[0].contiguous().clone())


def all_gather(x: Tensor, n: int) -> Tensor:
    """Return the rows of all processes in their order; differentiable.

    :param x: this process's rows, as `shard` cuts them.
    :param n: number of rows in all.
    """
    if world_size() == 1:
        return x
    rows = torch.arange(n, device=x.device)[rank() :: world_size()]
    placed: Tensor = _Sum.apply(x.new_zeros(n, *x.shape[1:]).index_copy(0, rows, x[: len(rows)]))
    return placed


def all_gather_ints(parts: Sequence[Tensor]) -> Tensor:
    """Return the integers (n,) of all processes, on the host.

    :param parts: those of this process's rows, in tensors (b,); maybe none.
    """
    local = torch.cat(list(parts)).cpu() if parts else torch.empty(0, dtype=torch.long)
    return all_gather(local, int(all_reduce(torch.tensor(len(local)))))


def all_reduce_rows(x: Tensor, n: int) -> Tensor:
    """Return the sum over the processes of what each computed from its share of n rows; without a gradient."""
    return x if world_size() == 1 else all_reduce(x.clone() if local_rows(n) else torch.zeros_like(x))


def all_reduce(x: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """Replace x, in place, by its sum over the processes, or what `op` makes of them, and return it.

    :raises UsageError: another process has ended.
    """
    if world_size() > 1:
        with _others_alive():
            dist.all_reduce(x, op)
    return x


def barrier() -> None:
    """Wait until every process has come here."""
    all_reduce_max(0)


def all_reduce_max(number: int) -> int:
    """Return the largest of the processes' numbers."""
    return int(all_reduce(torch.tensor(number), dist.ReduceOp.MAX))


def broadcast(numbers: Sequence[int]) -> list[int]:
    """Return the first process's numbers; the others pass as many of their own."""
    return list(numbers) if world_size() == 1 else all_reduce(torch.tensor(numbers) * is_rank_zero()).tolist()


def all_reduce_gradients(parameters: Iterable[Tensor], loss: Tensor, alike: bool) -> Tensor:
    """Make each gradient the sum over the processes, in one message, and return the sum of the losses.

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
    """Copy the first process's trainable parameters and buffers to all processes."""
    if world_size() == 1:
        return
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and name not in frozen:
            with _others_alive():
                dist.broadcast(value, 0)


@contextmanager
def fork_rng(device: torch.device, step: int) -> Iterator[None]:
    """Draw random numbers from the seed, this process's rank and the step; afterwards those that all processes draw."""
    if world_size() == 1:
        yield
        return
    entropy = np.random.SeedSequence((torch.initial_seed(), rank(), step)).generate_state(1, np.uint64)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(entropy[0]))
        yield
