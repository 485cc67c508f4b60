"""What methods with a memory of examples share: the memory, its draws, and gradients of replayed examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from nlpcl.models.base import ContinualModel, TaskLabels, single_task
from nlpcl.models.device import to_device
from nlpcl.models.sizes import tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Count, SomeShare
from nlpcl.training.batches import loader_of
from nlpcl.training.forward import logits_of, on_device
from nlpcl.training.plugin import Plugin, Strategy, TaskData
from nlpcl.training.strategy import StrategyOptions


def reservoir_slots(seen: int, count: int, capacity: int, generator: torch.Generator) -> list[int]:
    """Return the slots of a stream's next `count` examples, -1 for one that is not kept (Vitter 1985, algorithm R).

    Example n (from 0) takes slot n if n < capacity; otherwise slot r ~ U{0..n} if r < capacity, or none.

    :param seen: number of examples that have passed before.
    """
    n = torch.arange(seen, seen + count)
    r = (torch.rand(count, generator=generator, dtype=torch.float64) * (n + 1)).long()
    slots = torch.where(n < capacity, n, r)
    return torch.where(slots < capacity, slots, -1).tolist()


@dataclass(frozen=True)
class Replayed:
    """Examples drawn from a memory, on the host.

    :param x: inputs (B, ...).
    :param y: labels, LongTensor (B,).
    :param task_labels: LongTensor (B,), or one int if all are equal.
    :param logits: stored logits (B, C), `ABSENT` where the example's head has no such class; None means
        that none are stored.
    """

    x: Tensor
    y: Tensor
    task_labels: TaskLabels
    logits: Tensor | None

    def on_device(self, strategy: Strategy) -> Replayed:
        """Return the examples as the strategy's model takes them; the task labels stay on the host."""
        logits = None if self.logits is None else to_device(self.logits, strategy.device)
        y = to_device(self.y, strategy.device)
        return Replayed(on_device(strategy, self.x), y, self.task_labels, logits)


class ReplayMemory:
    """Examples of past tasks, on the host, in slots that reservoir sampling fills.

    After each task int(share * N) of its N training examples, at least one, pass the reservoir. Draws come from a
    generator of the memory's own, so they do not move the caller's random state.

    :param capacity: number of slots, for all tasks together; at least 1.
    :param share: share of a task's training examples offered to the reservoir, in (0, 1].
    :param seed: of the memory's generator.
    :param whole: as in the original code, offer the first examples in file order instead of random ones, and draw the
        entire memory every time.
    """

    state = ("generator", "seen", "tasks", "heads", "columns")

    def __init__(self, capacity: int = 128, share: float = 0.02, seed: int = 0, whole: bool = False) -> None:
        self.capacity = capacity
        self.share = share
        self.whole = whole
        self.generator = torch.Generator().manual_seed(seed)
        self.quota: int | None = None
        """Most examples of one task that are offered; None means as many as `share` says."""
        self.seen = 0
        # Of each slot: the experience and the task label of its example.
        self.tasks = torch.full((capacity,), -1)
        self.heads = torch.full((capacity,), -1)
        self.columns: dict[str, Tensor] = {}
        """By kind what is kept of the examples in all slots: inputs `x`, labels `y`, and what a method adds."""

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, data: TaskData, task: int) -> Tensor:
        """Offer a task's examples to the reservoir.

        :param data: the task's training examples, an Avalanche dataset.
        :param task: index of the experience.
        :return: the slots that were written, LongTensor.
        """
        count = max(1, int(self.share * len(data)))
        count = count if self.quota is None else min(count, self.quota)
        order = torch.arange(count) if self.whole else torch.randperm(len(data), generator=self.generator)[:count]
        slots = reservoir_slots(self.seen, count, self.capacity, self.generator)
        self.seen += count
        # An example may be replaced by a later one of the same task: the last one stays.
        last = {slot: i for slot, i in zip(slots, order.tolist(), strict=True) if slot >= 0}
        written = torch.tensor(list(last), dtype=torch.long)
        if last:
            ((x, y, *_, heads),) = loader_of(data, [list(last.values())])
            self.tasks[written] = task
            self.heads[written] = heads
            self.keep("y", written, y)
            self.keep("x", written, x)
        return written

    def indices(self, size: int) -> Tensor:
        """Draw the slots of up to `size` examples without replacement, or all in order if draws are `whole`."""
        if self.whole:
            return torch.arange(len(self))
        return torch.randperm(len(self), generator=self.generator)[:size]

    def at(self, slots: Tensor) -> Replayed:
        """Return the examples in `slots`, a LongTensor."""
        kept = {kind: values[slots] for kind, values in self.columns.items()}
        return Replayed(kept["x"], kept["y"], single_task(self.heads[slots]), kept.get("logits"))

    def draw(self, size: int = 32) -> Replayed:
        """Draw up to `size` examples without replacement, or the entire memory if draws are `whole`."""
        return self.at(self.indices(size))

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the filled slots: of examples with their labels, and by kind of what else is kept."""
        kept = {"memory": tensor_bytes([self.heads[: len(self)]])}
        for kind, values in self.columns.items():
            name = "memory" if kind in ("x", "y") else f"memory_{kind}"
            kept[name] = kept.get(name, 0) + tensor_bytes([values[: len(self)]])
        return kept

    def keep(self, kind: str, slots: Tensor, values: Tensor, fill: float = 0) -> None:
        """Keep values (n, ...) of the examples in n slots; `fill` stands where others are longer."""
        values = values.cpu()
        kept = self.columns.get(kind)
        if kept is None:
            kept = values.new_full((self.capacity, *values.shape[1:]), fill)
        if values.dim() > 1:  # texts, or logits of heads, of different length: the last axis is padded to the longer
            width = max(kept.shape[-1], values.shape[-1])
            kept, values = (F.pad(part, (0, width - part.shape[-1]), value=fill) for part in (kept, values))
        kept[slots] = values
        self.columns[kind] = kept


def joint_mean(current: Tensor, replayed: Tensor, n: int, m: int) -> Tensor:
    """Return the mean over n current and m replayed examples, from the mean over each."""
    return (n * current + m * replayed) / (n + m)


def virtual_step(
    weights: Mapping[str, Tensor], gradients: Sequence[Tensor | None], rate: Tensor | float
) -> dict[str, Tensor]:
    """Return theta - a g, part by part; a part without a gradient stays."""
    parts = zip(weights.items(), gradients, strict=True)
    return {name: p if g is None else p - rate * g for (name, p), g in parts}


def loss_scale(strategy: Strategy) -> Tensor | float:
    """Return the factor by which a strategy in fp16 scales its loss, a tensor, or 1.0 in another precision."""
    scaler = getattr(strategy, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return 1.0
    factor: Tensor = scaler.scale(torch.ones((), device=strategy.device))  # `get_scale` would wait for the device
    return factor


def flatten(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Tensor:
    """Join all gradients into one vector (P,); None counts as 0."""
    pairs = zip(parameters, gradients, strict=True)
    return torch.cat([p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in pairs])


def reference_gradient(
    strategy: Strategy, parameters: Sequence[nn.Parameter], replayed: Replayed
) -> tuple[Tensor, list[bool]]:
    """Return the gradient (P,) of the mean cross-entropy of drawn examples, and of each parameter whether it has one.

    Leaves `.grad` alone. In fp16 the loss is scaled as the strategy scales its own; a reference that overflows all
    the same counts as 0, since the step it would spoil has already passed the scaler's check.
    """
    replayed = replayed.on_device(strategy)
    loss = F.cross_entropy(logits_of(strategy, replayed.x, replayed.task_labels), replayed.y)
    scale = loss_scale(strategy)
    gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
    flat = flatten(parameters, gradients) / scale
    if isinstance(scale, Tensor):
        flat = torch.where(flat.isfinite().all(), flat, 0.0)
    return flat, [g is not None for g in gradients]


def set_gradients(parameters: Sequence[nn.Parameter], flat: Tensor, in_reference: Sequence[bool]) -> None:
    """Make the parts of `flat` (P,) the gradients.

    A parameter that had none, neither from the current mini-batch nor from a reference, keeps none: with a gradient
    of 0 weight decay would move the heads of other tasks.
    """
    for p, part, known in zip(parameters, flat.split([p.numel() for p in parameters]), in_reference, strict=True):
        if known or p.grad is not None:
            p.grad = part.view_as(p)


class ReplayOptions(StrategyOptions):
    """The options of a method with a memory."""

    memory_size: Count = option(128, "examples kept of all tasks together; 128 in the original toolkit")
    memory_share: SomeShare = option(
        0.02, "share of each task's training examples offered to the memory; 0.02 in the original toolkit"
    )
    replay_batch_size: Count = option(32, "examples replayed at a time; chosen here, the default size of a mini-batch")
    parity: bool = option(
        False,
        "restore what the original toolkit did: a memory filled in file order and replayed whole at every step, and "
        "what it does for every strategy",
    )


ReplayOptionsT = TypeVar("ReplayOptionsT", bound=ReplayOptions)


class MemoryPlugin(Plugin[ReplayOptionsT]):
    """Holds a memory that is filled once after each task; works with any Avalanche strategy.

    The memory's generator starts from the seed that torch was last given.
    """

    state: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self, options: ReplayOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        size, share = self.options.memory_size, self.options.memory_share
        self.memory = ReplayMemory(size, share, seed=torch.initial_seed(), whole=self.options.parity)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.fill(strategy)

    def fill(self, strategy: Strategy) -> Tensor:
        """Offer the experience just trained to the memory; return the slots that were written."""
        experience = strategy.experience
        return self.memory.add(experience.dataset, experience.current_experience)

    def kept_bytes(self) -> dict[str, int]:
        return self.memory.kept_bytes()


class ProjectionPlugin(MemoryPlugin[ReplayOptionsT]):
    """Corrects the gradient of every mini-batch by gradients of replayed examples, under any Avalanche strategy."""

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if not len(self.memory):
            return
        parameters = [p for p in strategy.model.parameters() if p.requires_grad]
        current = flatten(parameters, [p.grad for p in parameters])
        draws = self.draws(self.options.replay_batch_size)
        references = current.new_empty(len(draws), len(current))
        known = [False] * len(parameters)
        for row, slots in zip(references, draws, strict=True):
            reference, own = reference_gradient(strategy, parameters, self.memory.at(slots))
            row.copy_(reference)
            known = [a or b for a, b in zip(known, own, strict=True)]
        corrected = self.project(current, references)
        if corrected is not None:
            set_gradients(parameters, corrected, known)

    @abstractmethod
    def draws(self, size: int) -> list[Tensor]:
        """Draw the slots of the examples that each reference gradient is of."""

    @abstractmethod
    def project(self, current: Tensor, references: Tensor) -> Tensor | None:
        """Return g (P,) as the references (t, P) allow it, or None if it stays."""


class FeaturesPlugin(MemoryPlugin[ReplayOptionsT]):
    """Catches what the strategy's own forward pass hands to the heads of a `ContinualModel`."""

    features: Tensor | None = None
    """Features (B, F) of the current mini-batch, from `after_forward` to the backward pass."""
    _handle: RemovableHandle

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._handle = cast(ContinualModel, strategy.model).heads.register_forward_pre_hook(self._catch)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._handle.remove()

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        self.features = None  # or its graph would live on

    def _catch(self, heads: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.features = inputs[0]
