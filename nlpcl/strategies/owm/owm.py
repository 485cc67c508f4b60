"""OWM: orthogonal weights modification (Zeng et al., Nature Machine Intelligence 2019, https://arxiv.org/abs/1810.01256).

Each layer keeps a projector away from the inputs it has seen, and moves only where they are not, so what it answers to
them stays.

    L = CE
    P <- P - k k' / (alpha + x' k),  k = P x,  P_0 = I        for every input x = [inputs of the layer; 1] fed to P
    [W b] <- [W b]_before + ([W b] - [W b]_before) P          after every step of the optimizer

The protected layers are those at the backbone's sites, biases included. Whatever else of it trains (LayerNorms and, in
full fine-tuning, embeddings and the attention's query, key and value maps) cannot be protected by P and freezes after
the first task. Heads train freely: in domain-incremental learning the shared head is not protected.

P is fed once a task is learnt, with what its training data give: an example's input is the mean over its real
positions (tokens, windows, patches), and a task enters as `owm_samples` means of examples. During the first task P
is the identity.

Where it differs from the original code: it projects the gradient, which momentum, Adam and weight decay undo, here the
step itself is projected; it feeds P at every step with the mean input of the mini-batch, so a task gets in its own way;
in its nets for text it feeds layers' outputs, measures progress by the number of tensors in a batch, projects no
convolution, and shares projectors between layers. `parity=True` restores the first two and nothing of the rest: at
every step of every task P takes the mean input (for a convolution each patch of it), and the gradient is projected;
alpha falls with the share lam of the task that is done, 1e-5^lam for convolutions, 1e-4^lam for the first linear layer,
1e-2^lam for a linear layer that follows one, and everything trains in every task.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.errors import UsageError
from nlpcl.models.base import ContinualModel, Site, single_task, sites_of, unprotected
from nlpcl.models.sizes import tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Count, Positive
from nlpcl.registry import register_strategy
from nlpcl.strategies._shared.plugin_strategy import ShapingStrategy
from nlpcl.strategies.owm.projection import Projector, batch_inputs, example_means
from nlpcl.training import distributed
from nlpcl.training.batches import numbered_batches
from nlpcl.training.forward import logits_of, mode, on_device
from nlpcl.training.plugin import Plugin
from nlpcl.training.protocols import Strategy
from nlpcl.training.strategy import StrategyOptions


def final_alphas(sites: list[Site]) -> list[float]:
    """Return the value to which each site's alpha falls within a task in the original code, from 1."""
    linear = {site.name for site in sites if isinstance(site.module, nn.Linear)}

    def final(site: Site) -> float:
        if site.name not in linear:
            return 1e-5
        return 1e-2 if any(name in linear for name, _ in site.inputs) else 1e-4

    return [final(site) for site in sites]


class OWMOptions(StrategyOptions):
    """The options of OWM; `alpha` and `owm_samples` are not used with `parity`."""

    alpha: Positive = option(
        1e-3,
        "the smaller, the less is forgotten and the less can be learnt. Chosen here; the paper's falls within a task "
        "from 1 to as little as 1e-5",
    )
    owm_samples: Count = option(10, "means of examples that P takes of each task; chosen here")
    parity: bool = option(
        False,
        "restore what the original code did: P fed at every step, the gradient projected, trainable LayerNorms, and "
        "what the original toolkit does for every strategy. Then alpha and owm_samples are not used",
    )


class OWMPlugin(Plugin):
    """Projects the steps of a `ContinualModel`'s layers away from the inputs of earlier tasks.

    :param model: its trainable sites are protected.
    :raises UsageError: `parity` in several processes.
    """

    options_type = OWMOptions
    options: OWMOptions
    state = ("projectors", "protecting")

    def __init__(self, model: ContinualModel, options: OWMOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        if self.options.parity and distributed.world_size() > 1:
            raise UsageError("owm with parity=True feeds P from each mini-batch as a whole, so it runs in one process.")
        self.backbone = model.backbone
        sites = sites_of(model, "owm")
        self.finals = {site.name: final for site, final in zip(sites, final_alphas(sites), strict=True)}
        self.sites = [site for site in sites if site.module.weight.requires_grad]
        self.projectors: list[Projector] = []
        self.protecting = False
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._inputs: list[Tensor] = []
        self._before: list[Tensor] = []

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the projectors."""
        return {"projectors": tensor_bytes(projector.p for projector in self.projectors)}

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        if self.protecting and not self.options.parity:
            for p in unprotected(self.backbone):
                p.requires_grad_(False)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if not self.projectors:  # not in the constructor: now the model is on its device
            self.projectors = [Projector(site.module) for site in self.sites]
        if self.options.parity:
            self._inputs = [torch.empty(0)] * len(self.sites)
            self._watch(self._note_batch)

    def before_update(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.options.parity:
            self._project_gradients(strategy)
        elif self.protecting:
            self._before = [projector.values() for projector in self.projectors]

    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        for projector, before in zip(self.projectors, self._before, strict=False):
            projector.project_change(before)
        self._before = []

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.options.parity:
            self._unwatch()
            self._inputs = []
        else:
            for projector, means in zip(self.projectors, self.task_means(strategy), strict=True):
                projector.update(means, self.options.alpha)
        self.protecting = True

    @torch.no_grad()
    def task_means(self, strategy: Strategy) -> list[Tensor]:
        """Return for each site the mean inputs (S, d), float64, of S consecutive groups of the experience's examples.

        S is `owm_samples`, or the number of examples if that is less. The model is in evaluation mode.
        """
        data = strategy.experience.dataset
        size, count = strategy.train_mb_size, len(data)
        groups = min(self.options.owm_samples, count)
        group_of = torch.arange(count) * groups // count
        sums = [projector.p.new_zeros(groups, len(projector.p)) for projector in self.projectors]
        with mode(strategy.model, training=False):
            for indices, (x, *_, tasks) in numbered_batches(data, size, distributed.shard_index()):
                members = F.one_hot(group_of[indices], groups).to(strategy.device)
                self._watch(partial(self._add_means, sums, members))
                logits_of(strategy, on_device(strategy, x), single_task(tasks))
                self._unwatch()
        sizes = group_of.bincount().to(strategy.device)
        return [distributed.all_reduce(found) / sizes.unsqueeze(1) for found in sums]

    def _add_means(self, sums: list[Tensor], members: Tensor, site: int, module: nn.Module, args: Any) -> None:
        means = example_means(module, args[0], self.backbone.context.mask).to(sums[site])
        sums[site].addmm_(members.T.to(means), means)  # not index_add_, whose order on a GPU is not repeatable

    def _note_batch(self, site: int, module: nn.Module, args: tuple[Tensor]) -> None:
        if module.training:  # not in an evaluation between two epochs
            self._inputs[site] = batch_inputs(module, args[0], self.backbone.context.mask)

    def _project_gradients(self, strategy: Strategy) -> None:
        progress = strategy.clock.train_exp_iterations / (len(strategy.dataloader) * strategy.train_epochs)
        for site, projector, x in zip(self.sites, self.projectors, self._inputs, strict=True):
            projector.update(x, self.finals[site.name] ** progress)
            projector.project_gradient()

    def _watch(self, note: Any) -> None:
        """Call `note(index of the site, module, arguments)` before each site's module, until `_unwatch`."""
        for i, site in enumerate(self.sites):
            self._hooks.append(site.module.register_forward_pre_hook(partial(note, i)))

    def _unwatch(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


@register_strategy(
    "owm",
    title="orthogonal weights modification",
    paper="Zeng, Chen, Cui, Yu: Continual Learning of Context-Dependent Processing in Neural Networks, "
    "Nature Machine Intelligence 2019",
    url="https://arxiv.org/abs/1810.01256",
    # The original toolkit's net for OWM.
    presets=tuple(
        ({"backbone": name}, {"backbone_options": {"layers": 2, "hidden": 300}}) for name in ("bert_frozen", "w2v*")
    ),
    ddp=True,
)
class OWM(ShapingStrategy):
    """Orthogonal weights modification."""

    plugin_type = OWMPlugin
