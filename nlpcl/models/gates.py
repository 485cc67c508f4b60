"""Hard attention to the task: gates on a backbone's sites (Serrà et al., ICML 2018, https://arxiv.org/abs/1801.01423)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nlpcl.models.base import Context, Site
from nlpcl.models.sizes import PerTask

_UNDECIDED = (0.01, 0.99)


class _Gate(torch.autograd.Function):
    """Forward sigma(s e), backward smax sigma'(e) g.

    The backward pass is the derivative times the paper's compensation
    (smax / s) (cosh(s e) + 1) / (cosh(e) + 1) in closed form, so nothing can overflow.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, scale: float, smax: float) -> Tensor:
        ctx.save_for_backward(embedding)
        ctx.smax = smax
        return torch.sigmoid(scale * embedding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (embedding,) = ctx.saved_tensors
        s = torch.sigmoid(embedding)
        return grads[0] * ctx.smax * s * (1 - s), None, None


def gate(embedding: Tensor, scale: float, smax: float) -> Tensor:
    """Return a = sigma(s e), with the compensated gradient smax sigma'(e) (Serrà et al. 2018, eqs. 1 and 5).

    :param embedding: e, any shape.
    :param scale: s > 0.
    :param smax: the largest s of the annealing.
    """
    opened: Tensor = _Gate.apply(embedding, scale, smax)
    return opened


def sparsity(gates: Tensor, used: Tensor) -> Tensor:
    """Return R = sum a (1 - A) / sum (1 - A), the share of the free units that this task takes (eq. 6)."""
    free = 1 - used
    return (gates * free).sum() / free.sum().clamp(min=1)


class Gates(PerTask):
    """One gate per unit, site and task; all sites of a backbone in one vector of N units.

    While a task trains its gates are sigma(s e); from its end on, and whenever the module is in
    evaluation mode, they are 1[e > 0], or sigma(smax e) with `soft`. A task never trained passes
    everything. `override`, where it is not None, is the task whose mask serves all samples.

    :param sites: the sites to gate; forward hooks are put on their activations.
    :param context: the backbone's context, which says whose gates the batch needs.
    :param n_tasks: number of tasks T.
    :param smax: the largest s.
    :param init_mean: mean of the embeddings' initial values; above 0 more gates start open than shut.
    :param init_std: standard deviation of the embeddings' initial values.
    :param soft: keep masks in (0, 1), as the original code does.
    """

    kind = "gates"
    state = ("trained", "override")
    task_state = ("current", "scale")
    used: Tensor

    def __init__(
        self,
        sites: Sequence[Site],
        context: Context,
        n_tasks: int,
        smax: float,
        init_mean: float,
        init_std: float,
        soft: bool,
    ) -> None:
        super().__init__()
        self.widths = {site.name: site.width for site in sites}
        units = sum(self.widths.values())
        initial = (init_mean + init_std * torch.randn(units) for _ in range(n_tasks))
        self.embeddings = nn.ParameterList(nn.Parameter(embedding) for embedding in initial)
        self.register_buffer("used", torch.zeros(units))
        self.trained: list[int] = []
        """Tasks whose masks are stored, ascending."""
        self.context = context
        self.smax = smax
        self.scale = smax
        self.soft = soft
        self.current: int | None = None
        self.override: int | None = None
        context.listeners.append(self.prepare)
        for site in sites:
            site.activation.register_forward_hook(partial(self._apply_gate, site.name, site.axis))

    def begin(self, task: int) -> None:
        """Let `task` train from now on."""
        self.current = task
        for i, embedding in enumerate(self.embeddings):
            embedding.requires_grad_(i == task)

    @torch.no_grad()
    def end(self) -> float:
        """Add the mask of the task in training to `used`; return its share of undecided gates."""
        assert self.current is not None
        values = torch.sigmoid(self.smax * self.embeddings[self.current])
        undecided = ((values > _UNDECIDED[0]) & (values < _UNDECIDED[1])).float().mean()
        self.trained = sorted({*self.trained, self.current})
        self.used.copy_(torch.maximum(self.used, self.mask(self.current)))
        self.current = None
        return float(undecided)

    @torch.no_grad()
    def mask(self, task: int) -> Tensor:
        """Return the stored mask of a task, (N,)."""
        embedding = self.embeddings[task]
        return torch.sigmoid(self.smax * embedding) if self.soft else (embedding > 0).to(embedding.dtype)

    def training_gates(self) -> Tensor:
        """Return sigma(s e) of the task in training, (N,)."""
        assert self.current is not None
        return gate(self.embeddings[self.current], self.scale, self.smax)

    def bytes_for(self, tasks: int) -> int:
        """Return the bytes of the embeddings of `tasks` tasks and of the cumulative mask."""
        return (tasks + 1) * self.used.numel() * self.used.element_size()

    def get_extra_state(self) -> Tensor:
        """The mask that serves every sample, -1 for none, and the tasks whose masks are stored."""
        return torch.tensor([-1 if self.override is None else self.override, *self.trained])

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        override, *self.trained = state.tolist()
        self.override = None if override < 0 else override

    def _row(self, task: int) -> Tensor:
        if task == self.current and self.training:
            return self.training_gates()
        if task == self.current or task in self.trained:
            return self.mask(task)
        return torch.ones_like(self.used)

    def by_site(self, values: Tensor) -> dict[str, Tensor]:
        """Return what belongs to the units of each site, (..., width), of values for all units, (..., N)."""
        parts = values.split(list(self.widths.values()), dim=-1)
        return dict(zip(self.widths, parts, strict=True))

    def prepare(self) -> None:
        """Compute the gates of the mini-batch that is about to pass, once for all sites."""
        task = self.context.task if self.override is None else self.override
        if isinstance(task, int):
            values = self._row(task)
        else:
            values = torch.stack([self._row(t) for t in range(len(self.embeddings))])[task]
        self.context.gates |= self.by_site(values)

    def _apply_gate(self, name: str, axis: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        gates = self.context.gates[name].to(output.dtype)
        shape = [1] * output.dim()
        shape[axis] = gates.shape[-1]
        if gates.dim() == 2:  # one row per sample
            shape[0] = gates.shape[0]
        return output * gates.reshape(shape)
