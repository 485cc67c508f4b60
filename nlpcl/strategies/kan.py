"""KAN: knowledge accessibility network (Ke, Liu, Wang, Shu, ECML-PKDD 2020, https://arxiv.org/abs/2112.10021).

A recurrent net holds what all tasks share. A second one learns for each new task which of its units hold knowledge that
helps; only these then serve the task, and only these learn from it.

    a_t = sigma(s e_t),  a_0 = 1
    accessibility, t > 0, first:  h = ReLU( GRU_AC( ReLU(GRU_MCL(x)) * a_t ) )_last;  e_t, GRU_AC and head train
    main:                         h = ReLU( GRU_MCL(x)_last ) * a_t;                  GRU_MCL and head train
    L = CE in both;  main, t > 0:  dW_hh[:, j] <- dW_hh[:, j] a_{t,j},  db_i <- db_i a_{t,i}  (in all three blocks),
                                   dW_ih[:, j] <- dW_ih[:, j] a_{t,j}

So every task but the first is trained twice, each time with a new optimizer and schedule. Where validation data decide,
each phase is judged by the loss along its own path, and either may end early. Tests take the main path under the task's
mask; in domain-incremental learning, where no label chooses it, `inference` does. Nothing protects what earlier tasks
learnt in units that a later one has access to, and nothing the shared head.

Columns of W_ih stand for the components of a token vector, which are as many as units in the original; where they are
not, the rows of W_ih are masked instead, 3 for each unit.

Where it differs from the original code: the embeddings have HAT's compensated gradient and stay within [-6, 6], which
there a misspelt name prevented, a learning rate of their own and no weight decay; s reaches smax at the end of an
epoch; the mask stored after the accessibility phase is 1[e > 0], which the main phase trains under, too; what it blocks
is blocked exactly, weight decay included; the last state is that at the last real token. `parity=True` restores masks
sigma(smax e), embeddings that train like weights, an s that does not reach smax, and states at the last position,
padding or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nlpcl.models.base import Context, ContinualModel, Site
from nlpcl.models.frozen import TextGRU, TokenNet, last_state
from nlpcl.models.gates import Gates
from nlpcl.options import option
from nlpcl.ranges import Spread
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.backbones import recurrent_backbone
from nlpcl.strategies._shared.masks import CLAMP, GATE_INIT, GatePlugin, InferenceOptions, MaskInference
from nlpcl.training.forward import logits_of
from nlpcl.training.plugin import Experience, Strategy

Path = Literal["test", "training", "every mask"]


class KANNet(TokenNet):
    """The main net, the gates on its units, and the net that trains the gates.

    :param main: GRU_MCL.
    :param context: the backbone's, which says whose gates a mini-batch needs.
    :param n_tasks: number of tasks.
    :param gates: further arguments of `Gates`.
    """

    task_state = ("accessing",)

    def __init__(self, main: TextGRU, context: Context, n_tasks: int, **gates: Any) -> None:
        super().__init__()
        self.width = main.width
        self.main = main
        self.access = TextGRU(main.width, main.width, 0.0)
        # A gate is not negative, so whether it acts before or after the ReLU is the same.
        self.units = nn.ReLU()
        self.gates = Gates([Site("units", main.gru, self.units, main.width)], context, n_tasks, **gates)
        nn.init.constant_(self.gates.embeddings[0], CLAMP)  # the first task has access to every unit
        self.accessing = False
        """Whether the accessibility phase is on; tests take the main path all the same."""
        self.path: Path = "test"

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Features (B, width) of vectors (B, L, C); mask (B, L) is True on the leading real tokens."""
        states = self.main.states(vectors)
        if self.path == "every mask":
            masks = torch.stack([self.gates.mask(task) for task in self.gates.trained])
            return (last_state(states, mask).relu() * masks.unsqueeze(1)).flatten(0, 1)
        if self.accessing and (self.training or self.path == "training"):
            reached = last_state(self.access.states(self.units(states)), mask).relu()
        else:
            reached = self.units(last_state(states, mask))
        features: Tensor = self.main.dropout(reached)
        return features

    @contextmanager
    def along(self, path: Path) -> Iterator[None]:
        """Take another path in evaluation: that of the phase that is on (`training`), or under `every mask`.

        Under every mask features are (K B, width), for the stored masks of K tasks one after the other; the states do
        not depend on the mask, so one pass does for all.
        """
        self.path = path
        try:
            yield
        finally:
            self.path = "test"


def accessible_factors(gru: nn.GRU, access: Tensor) -> dict[nn.Parameter, Tensor]:
    """Return the factors on the gradients of a GRU's weights in the main phase (see the module's docstring).

    :param access: a_t, (H,).
    """
    rows = access.repeat(3)
    inputs = access.unsqueeze(0) if gru.input_size == gru.hidden_size else rows.unsqueeze(1)
    factors = {"weight_ih_l0": inputs, "weight_hh_l0": access.unsqueeze(0), "bias_ih_l0": rows, "bias_hh_l0": rows}
    return {gru.get_parameter(name): factor for name, factor in factors.items()}


class KANOptions(InferenceOptions):
    """The options of KAN."""

    gate_init: Spread = option(
        GATE_INIT, "standard deviation of the embeddings' initial values; 1 in the original toolkit"
    )
    parity: bool = option(
        False,
        "restore what the original toolkit did: soft masks, gates that train like weights, and what it does for every "
        "strategy",
    )


class KANPlugin(GatePlugin[KANOptions]):
    """Puts a `KANNet` on the backbone's token vectors.

    The first training on a task t > 0 is its accessibility phase, the next its main phase. `KAN` goes through both;
    under a strategy of Avalanche's own call `train` twice.

    :param model: its backbone's net is a `TextGRU`, which becomes the main net.
    """

    def __init__(self, model: ContinualModel, options: KANOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        backbone, main = recurrent_backbone(model, "kan")
        gates = {"smax": self.options.smax, "init_mean": self.options.gate_mean, "init_std": self.options.gate_init}
        self.net = KANNet(main, backbone.context, model.n_tasks, **gates, soft=self.options.parity)
        backbone.net = self.net
        self.gates = self.net.gates
        self.task_incremental = model.task_incremental

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        task = strategy.experience.current_experience
        if not self.task_incremental:
            self.gates.override = task
        if task not in self.gates.trained:
            self.gates.begin(task)
            if task == 0:
                self.store_mask()
        accessing = self.gates.current is not None
        self.net.accessing = accessing
        self.net.main.requires_grad_(not accessing)
        self.net.access.requires_grad_(accessing)
        if not accessing:
            self.gates.requires_grad_(False)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        task = strategy.experience.current_experience
        free = self.net.accessing or task == 0
        self.blocked.set({} if free else accessible_factors(self.net.main.gru, self.gates.mask(task)))

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.net.accessing:
            self.store_mask()

    def store_mask(self) -> None:
        """End the accessibility phase: from now on the task's mask is fixed."""
        self.undecided.append(self.gates.end())
        self.net.accessing = False


@register_strategy(
    "kan",
    title="knowledge accessibility network",
    paper="Ke, Liu, Wang, Shu: Continual Learning with Knowledge Transfer for Sentiment Classification, ECML-PKDD 2020",
    url="https://arxiv.org/abs/2112.10021",
    backbones=("bert_frozen", "w2v", "w2v_as"),
    reason="it is a recurrent net over fixed token vectors",
    # The original toolkit's net for KAN, which has no dropout.
    presets=(
        *(({"backbone": b}, {"backbone_options": {"net": "gru", "dropout": 0.0}}) for b in ("bert_frozen", "w2v*")),
        ({"options.parity": "True"}, {"options": {"gate_learning_rate": None}}),
    ),
    ddp=True,
)
class KAN(MaskInference):
    """Knowledge accessibility network.

    Every task but the first is trained for twice the epochs: first its mask, then the main net.
    """

    plugin_type = KANPlugin
    masks: KANPlugin

    def _train_exp(self, experience: Experience, eval_streams: Any = None, **kwargs: Any) -> None:
        if self.masks.net.accessing:
            super()._train_exp(experience, eval_streams, **kwargs)
            self.masks.store_mask()
            # The main phase is a training of its own: new order, optimizer and schedule, epochs from 0.
            self._before_training_exp(**kwargs)
        super()._train_exp(experience, eval_streams, **kwargs)

    def validation_criterion(self, x: Tensor, y: Tensor, task_labels: Tensor | int) -> Tensor:
        """Return the loss along the path of the phase that is on, under the mask as it would be stored now."""
        with self.masks.net.along("training"):
            return super().validation_criterion(x, y, task_labels)

    def logits_by_mask(self) -> Tensor:
        with self.masks.net.along("every mask"):
            logits = logits_of(self, self.mb_x, self.tasks)
        by_mask: Tensor = logits.unflatten(0, (len(self.masks.gates.trained), -1))
        return by_mask
