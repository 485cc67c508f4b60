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

from contextlib import ExitStack
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
from nlpcl.training import distributed
from nlpcl.training.batches import numbered_batches
from nlpcl.training.forward import logits_of, mode, on_device
from nlpcl.training.plugin import Plugin, Strategy
from nlpcl.training.state import restorable
from nlpcl.training.strategy import ContinualStrategy, StrategyOptions

BLOCK = 32
"""Inputs that enter P at once: a system of this size is solved, never one of P's own."""


def layer_inputs(module: nn.Module, x: Tensor) -> Tensor:
    """Return the vectors from which a layer computes its outputs, (B, n, d): these are `layer_inputs @ joined.T`.

    n is the number of positions: 1 for a linear layer on (B, f), L on (B, L, f), that of the outputs for a
    convolution, whose inputs are its patches. d is the number of columns of the weight, and 1 for the bias if there
    is one: its input is always 1.

    :param module: `nn.Linear`, or `nn.Conv1d` or `nn.Conv2d` with one group and zeros as padding.
    :param x: the layer's input, with a batch dimension.
    """
    layer: Any = module
    if isinstance(module, nn.Linear):
        rows = x if x.dim() == 3 else x.unsqueeze(1)
    elif isinstance(module, nn.Conv1d):
        kernel, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
        rows = F.unfold(x.unsqueeze(2), (1, *kernel), (1, *dilation), (0, *padding), (1, *stride)).mT
    else:
        rows = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
    return rows if layer.bias is None else torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)


def real_positions(module: nn.Module, n: int, mask: Tensor | None) -> Tensor | None:
    """Tell which of a layer's n positions belong to the text, (B, n); None means all of them.

    For a convolution over tokens they are the windows within the text, as in `TextCNN`: at least one.

    :param mask: (B, L), True on the leading real tokens.
    """
    if mask is None:
        return None
    if isinstance(module, nn.Conv1d):
        windows = (mask.sum(dim=1, keepdim=True) - module.kernel_size[0] + 1).clamp(min=1)
        return torch.arange(n, device=mask.device) < windows
    return mask if isinstance(module, nn.Linear) and n == mask.shape[1] else None


def example_means(module: nn.Module, x: Tensor, mask: Tensor | None, dim: int = 1) -> Tensor:
    """Return each example's mean input over its real positions, (B, d), in float32.

    With `dim` 0 it is each position's, (n, d), over the examples that have it; one that none has is 0.
    """
    rows = layer_inputs(module, x.detach().float())
    real = real_positions(module, rows.shape[1], mask)
    if real is None:
        return rows.mean(dim)
    weight = real.unsqueeze(2).to(rows.dtype)  # no matrix product: autocast would round it
    return (rows * weight).sum(dim) / weight.sum(dim).clamp(min=1)


def batch_inputs(module: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the inputs that the original OWM takes from a mini-batch, in float32.

    The mean input (1, d) of a linear layer; of a convolution the patches of the mean input (n, d), each patch averaged
    over the examples that have it. A patch that none has is 0, bias included, which leaves P as it is.
    """
    if isinstance(module, nn.Linear):
        return example_means(module, x, mask).mean(dim=0, keepdim=True)
    return example_means(module, x, mask, dim=0)


def joined(*parts: Tensor) -> Tensor:
    """Return a copy of [W b], (out, d), of a weight and, if there is one, a bias."""
    return torch.cat([part.detach().reshape(len(part), -1) for part in parts], dim=1)


@restorable
class Projector:
    """P of one layer, (d, d), which starts at the identity.

    It is alpha (alpha I + A'A)^-1, where the rows of A are the inputs seen. What the layer answers to those changes by
    a factor of about alpha if each change of [W b] is multiplied by P.
    P is float64, since the recursion is ill-conditioned for a small alpha; `applied` is P in the weight's dtype.

    :param module: as in `layer_inputs`; P lies on its device.
    """

    state = ("module", "p", "applied")

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        values = self.values()
        self.p = torch.eye(values.shape[1], dtype=torch.float64, device=values.device)
        self.applied = self.p.to(values.dtype)

    @torch.no_grad()
    def update(self, x: Tensor, alpha: float) -> None:
        """Take the inputs `x` in: P <- P - P X' (alpha I + X P X')^-1 X P.

        This is Zeng et al. 2019, eq. 2 (recursive least squares), k = P x; P <- P - k k' / (alpha + x' k), for the
        rows of X one after another.

        :param x: (n, d).
        :param alpha: above 0; the smaller, the less of the inputs remains.
        """
        for block in x.to(self.p).split(BLOCK):
            k = block @ self.p
            system = k @ block.T
            system.diagonal().add_(alpha)
            root = torch.linalg.cholesky_ex(system).L  # cholesky() would wait for the device to report errors
            half = torch.linalg.solve_triangular(root, k, upper=False)
            self.p.addmm_(half.T, half, alpha=-1)
        self.p.copy_((self.p + self.p.T) / 2)
        self.applied.copy_(self.p)

    def values(self) -> Tensor:
        """Return a copy of the layer's [W b], (out, d)."""
        return joined(*self.module.parameters())

    @torch.no_grad()
    def project_change(self, before: Tensor) -> None:
        """[W b] <- [W b]_before + ([W b] - [W b]_before) P, for `before` from `values`."""
        change = self.values() - before
        self._split(torch.addmm(before, change, self.applied), list(self.module.parameters()))

    @torch.no_grad()
    def project_gradient(self) -> None:
        """grad [W b] <- grad [W b] P; nothing if the layer has no gradient."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if gradients:
            self._split(joined(*gradients) @ self.applied, gradients)

    @staticmethod
    def _split(rows: Tensor, parts: list[Tensor]) -> None:
        for part, columns in zip(parts, rows.split([part[0].numel() for part in parts], dim=1), strict=True):
            part.copy_(columns.reshape(part.shape))


def final_alphas(sites: list[Site]) -> dict[str, float]:
    """Return by site the value to which its alpha falls within a task in the original code, from 1."""
    linear = {site.name for site in sites if isinstance(site.module, nn.Linear)}
    finals = dict.fromkeys((site.name for site in sites), 1e-5)
    for site in sites:
        if site.name in linear:
            finals[site.name] = 1e-2 if any(name in linear for name, _ in site.inputs) else 1e-4
    return finals


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


class OWMPlugin(Plugin[OWMOptions]):
    """Projects the steps of a `ContinualModel`'s layers away from the inputs of earlier tasks.

    :param model: its trainable sites are protected.
    :raises UsageError: `parity` in several processes.
    """

    state = ("projectors",)

    def __init__(self, model: ContinualModel, options: OWMOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        if self.options.parity and distributed.world_size() > 1:
            raise UsageError("owm with parity=True feeds P from each mini-batch as a whole, so it runs in one process.")
        self.backbone = model.backbone
        sites = sites_of(model, "owm")
        self.finals = final_alphas(sites)
        self.sites = [site for site in sites if site.module.weight.requires_grad]
        self.projectors: list[Projector] = []
        self._hooks = ExitStack()
        self._inputs: list[Tensor] = []
        self._before: list[Tensor] = []

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the projectors."""
        return {"projectors": tensor_bytes(projector.p for projector in self.projectors)}

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # The first callback of an experience, and the only one before the optimizer is made.
        if strategy.clock.train_exp_counter and not self.options.parity:
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
            progress = strategy.clock.train_exp_iterations / (len(strategy.dataloader) * strategy.train_epochs)
            for site, projector, x in zip(self.sites, self.projectors, self._inputs, strict=True):
                projector.update(x, self.finals[site.name] ** progress)
                projector.project_gradient()
        elif strategy.clock.train_exp_counter:
            self._before = [projector.values() for projector in self.projectors]

    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        for projector, before in zip(self.projectors, self._before, strict=False):
            projector.project_change(before)
        self._before = []

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.options.parity:
            self._hooks.close()
            self._inputs = []
        else:
            for projector, means in zip(self.projectors, self.task_means(strategy), strict=True):
                projector.update(means, self.options.alpha)

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
                self._hooks.close()
        sizes = group_of.bincount().to(strategy.device)
        return [distributed.all_reduce(found) / sizes.unsqueeze(1) for found in sums]

    def _add_means(self, sums: list[Tensor], members: Tensor, site: int, module: nn.Module, args: Any) -> None:
        means = example_means(module, args[0], self.backbone.context.mask).to(sums[site])
        sums[site].addmm_(members.T.to(means), means)  # not index_add_, whose order on a GPU is not repeatable

    def _note_batch(self, site: int, module: nn.Module, args: tuple[Tensor]) -> None:
        if module.training:  # not in an evaluation between two epochs
            self._inputs[site] = batch_inputs(module, args[0], self.backbone.context.mask)

    def _watch(self, note: Any) -> None:
        """Call `note(index of the site, module, arguments)` before each site's module, until `_hooks` is closed."""
        for i, site in enumerate(self.sites):
            self._hooks.enter_context(site.module.register_forward_pre_hook(partial(note, i)))


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
class OWM(ContinualStrategy):
    """Orthogonal weights modification."""

    plugin_type = OWMPlugin
