"""The contracts between a model and the methods that shape it: `ContinualModel`, `Backbone`, `Site`."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from nlpcl.errors import UsageError
from nlpcl.models.device import to_device
from nlpcl.models.heads import SharedHead, TaskHeads
from nlpcl.models.sizes import PerTask
from nlpcl.options import Options, show_signature, with_options

TaskLabels = Tensor | int
_MISSING: Any = object()
_ENCODERS = "bert and bert_adapter"


@dataclass
class Context:
    """Tells the layers inside an encoder about the mini-batch that passes.

    :ivar task: an int when the whole mini-batch belongs to one task, otherwise a LongTensor (B,).
    :ivar mask: (B, L), True on real tokens; None means that inputs have no positions.
    :ivar gates: for each site by name what multiplies its units.
    :ivar listeners: called at the start of each mini-batch; they fill `gates`.
    """

    task: TaskLabels = 0
    mask: Tensor | None = None
    gates: dict[str, Tensor] = field(default_factory=dict)
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def start(self, task: TaskLabels, mask: Tensor | None = None) -> None:
        """Note the mini-batch that is about to pass, and call the listeners."""
        self.task, self.mask, self.gates = task, mask, {}
        for listener in self.listeners:
            listener()

    def clear(self) -> None:
        """Forget the mini-batch that has passed."""
        self.task, self.mask, self.gates = 0, None, {}

    def recalled(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return torch's checkpointing contexts: none for the forward pass, this mini-batch for the backward pass."""
        return nullcontext(), _Recalled(self)

    def __getstate__(self) -> dict[str, Any]:
        # The last batch's gates hold a graph, which cannot be copied and means nothing in a copy.
        return {**self.__dict__, "gates": {}}


class _Recalled(AbstractContextManager[None]):
    """Whenever it is entered, the context is as it was when this object was made; afterwards as before."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.then = (context.task, context.mask, context.gates)

    def __enter__(self) -> None:
        context, then = self.context, self.then
        self.then = (context.task, context.mask, context.gates)
        context.task, context.mask, context.gates = then

    def __exit__(self, *error: object) -> None:
        self.__enter__()  # exchange the two again


@dataclass(frozen=True)
class Site:
    """A layer that a method can gate, project or make Bayesian.

    :param name: unique within the backbone.
    :param module: the layer; its weight is (repeat * width, columns, ...), its bias (repeat * width,).
    :param activation: the module whose output a gate multiplies.
    :param width: number of units.
    :param repeat: how many stacked blocks of rows one unit owns (3 for a GRU's gates).
    :param inputs: the origin of the columns, in order: (name of a site, columns per unit of it), or
        (None, number of columns) for an input that no site gates.
    :param axis: the axis of the activation's output that holds the units: the last, or 1 for (B, width, H, W).
    """

    name: str
    module: nn.Module
    activation: nn.Module
    width: int
    repeat: int = 1
    inputs: tuple[tuple[str | None, int], ...] = field(default_factory=tuple)
    axis: int = -1


def chained_sites(
    names: Sequence[str], layers: Iterable[nn.Module], activations: Iterable[nn.Module], axis: int = -1
) -> list[Site]:
    """Return the sites of layers that each read the one before; the first reads what no site gates.

    :param axis: the axis of the activations' outputs that holds the units.
    """
    sites: list[Site] = []
    source: str | None = None
    units = 1
    for name, layer, activation in zip(names, layers, activations, strict=True):
        width, columns = cast(Tensor, layer.weight).shape[:2]
        sites.append(Site(name, layer, activation, width, inputs=((source, columns // units),), axis=axis))
        source, units = name, width
    return sites


def row_factor(site: Site, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the blocking factor of a site's bias, 1 - A_l; shape (repeat * width,), in [0, 1]."""
    return 1 - masks[site.name].repeat(site.repeat)


def weight_factor(site: Site, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the blocking factor of a site's weight, 1 - min(A_l,i , A_{l-1},j).

    Serrà et al. 2018, eq. 2. An input that no site gates counts as fully used (A = 1).

    :param masks: for each site by name its cumulative mask A, (width,), in [0, 1].
    :return: broadcastable to the weight, (repeat * width, columns, 1, ...).
    """
    return 1 - by_entry(site, masks, 1.0, torch.minimum)


def by_entry(
    site: Site, values: Mapping[str, Tensor], other: float, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Combine for each entry of a site's weight the value of its unit and that of the unit that makes its input.

    :param values: for each site by name those of its units, (width,).
    :param other: the value of an input that no site gates.
    :return: broadcastable to the weight, (repeat * width, columns, 1, ...).
    """
    rows = values[site.name].repeat(site.repeat)
    columns = [
        rows.new_full((n,), other) if name is None else values[name].repeat_interleave(n) for name, n in site.inputs
    ]
    combined = combine(rows[:, None], torch.cat(columns)[None, :])
    return combined.reshape(*combined.shape, *[1] * (cast(Tensor, site.module.weight).dim() - 2))


class Backbone(nn.Module, ABC):
    """Turns inputs into features (B, F).

    :ivar width: F.
    :ivar context: tells the inner layers about the mini-batch.

    :param options: of the kind that `options_type` declares.
    :raises UsageError: an unknown option, or a value out of range.
    """

    options_type: ClassVar[type[Options]] = Options
    options: Any
    width: int
    pretrained = False
    """True where layers at the sites are pretrained or stand among pretrained ones, so that nobody may redraw them."""
    recomputes: bool | None = None
    """True where the backward pass computes activations again; None means that this backbone cannot do so."""
    positions: int | None = None
    """Most positions that an embedded text can have; None means any number."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = self.options_type(**options)
        self.context = Context()
        self.parity = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_signature(cls, with_options(inspect.signature(cls.__init__), cls.options_type))

    def set_parity(self) -> None:
        """Compute as the original toolkit did from now on: every operator over positions sees padding, too."""
        self.parity = True

    def trimmed(self, x: Tensor) -> Tensor:
        """Return a mini-batch on the host without the padding that need not be computed on."""
        return x

    @abstractmethod
    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        """Return features (B, F) of the inputs `x`."""

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return inputs in a space where gradients can move them, and the mask of their positions.

        Images stay as they are, without a mask; a backbone for text gives (B, L, H) and a mask (B, L).
        """
        return x, None

    def features_of(self, embedded: Tensor, mask: Tensor | None, task_labels: TaskLabels) -> Tensor:
        """Return features (B, F) of embedded inputs: `features_of(*embed(x), t)` is `features(x, t)`."""
        return self.features(embedded, task_labels)

    def check_embedded(self) -> None:
        """Refuse a backbone whose `features_of` embedded texts differ from their `features`.

        :raises UsageError: its encoder takes no embeddings, or does something else with them.
        """

    def allow_second_derivatives(self) -> None:
        """Compute without kernels that have no second derivative from now on."""

    def recompute_activations(self) -> None:
        """Keep fewer activations for the backward pass from now on, and compute them again there.

        :raises UsageError: this backbone trains no encoder's layers, or its encoder cannot do so.
        """
        raise UsageError(f"--gradient-checkpointing is for backbones that train an encoder's layers, {_ENCODERS}.")

    def compile_encoder(self) -> None:
        """Let torch compile the encoder, for batches of any length.

        :raises UsageError: this backbone trains no encoder's layers.
        """
        raise UsageError(f"--compile is for backbones that train an encoder's layers, {_ENCODERS}.")

    @abstractmethod
    def sites(self) -> list[Site]:
        """Return the layers that a method can gate, project or make Bayesian, from input to output."""


def unprotected(backbone: Backbone) -> list[nn.Parameter]:
    """Return the trainable parameters that are at no site and that all tasks share, such as LayerNorms."""
    protected = [site.module for site in backbone.sites()] + [m for m in backbone.modules() if isinstance(m, PerTask)]
    known = {id(p) for module in protected for p in module.parameters()}
    return [p for p in backbone.parameters() if p.requires_grad and id(p) not in known]


class ContinualModel(MultiTaskModule):
    """A backbone and its heads, called as Avalanche calls models: `model(x, task_labels)`.

    :param backbone: gives features (B, F).
    :param heads: `TaskHeads` for task-incremental, `SharedHead` for domain-incremental learning.
    """

    state: ClassVar[tuple[str, ...]] = ("known_train_tasks_labels", "max_class_label")

    def __init__(self, backbone: Backbone, heads: TaskHeads | SharedHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.task_incremental = isinstance(heads, TaskHeads)
        """Whether task labels choose the head."""
        self.n_tasks = heads.n_tasks
        """The number of tasks that the model was built for."""

    def forward(self, x: Tensor, task_labels: TaskLabels | None = _MISSING) -> Tensor | dict[int, Tensor]:
        """Return logits (B, C).

        :param x: (B, ...), as the backbone takes it.
        :param task_labels: (B,), or one int for the whole mini-batch; may be left out when the head is shared. With
            None, as everywhere in Avalanche, the logits of every task trained so far come by task.
        :raises ValueError: task labels are left out though they choose the head.
        """
        if task_labels is _MISSING:
            if self.task_incremental:
                raise ValueError("a model with one head per task needs task_labels: model(x, task_labels)")
            task_labels = 0
        if task_labels is None:
            return {task: self.forward_single_task(x, task) for task in sorted(self.known_train_tasks_labels)}
        return self.forward_single_task(x, task_labels)

    def forward_single_task(self, x: Tensor, task_label: TaskLabels) -> Tensor:
        """Return logits (B, C_t) of one head for the whole mini-batch, or (B, C) of labels (B,)."""
        task = single_task(task_label)
        labels = task if isinstance(task, int) else to_device(task, x.device)
        features = self.backbone.features(x, labels).float()
        logits: Tensor
        # Heads and loss stay in float32 whatever the precision of the backbone.
        with torch.autocast(x.device.type, enabled=False):
            logits = self.heads(features, task)
        return logits


def single_task(task_labels: TaskLabels) -> TaskLabels:
    """Return one int if all labels are equal, else the labels as they are.

    With one int only that task's head is in the graph. Labels on a GPU make the host wait, so our own strategies pass
    labels on the host.
    """
    if isinstance(task_labels, int):
        return task_labels
    first = int(task_labels[0])
    return first if bool((task_labels == first).all()) else task_labels


def continual_model(model: nn.Module, method: str) -> ContinualModel:
    """Return `model`, if it is one that a method can shape.

    :raises TypeError: it is not a `ContinualModel`.
    """
    if not isinstance(model, ContinualModel):
        raise TypeError(
            f"{method} shapes the model's layers, so it needs a ContinualModel, not a {type(model).__name__}"
        )
    return model


def sites_of(model: ContinualModel, method: str) -> list[Site]:
    """Return the sites of a model's backbone, which `method` works on.

    :raises UsageError: it has none.
    """
    sites = model.backbone.sites()
    if not sites:
        raise UsageError(
            f"{method} works on linear or convolutional layers, and the net of this {type(model.backbone).__name__} "
            "has none: --set net=cnn."
        )
    return sites
