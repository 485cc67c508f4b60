"""What B-CL and CTR share: capsule plug-ins at the adapters' places, and which of their parameters train."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.optim import Optimizer

from nlpcl.models.adapters import Adapter, BertAdapter, init_linear
from nlpcl.models.base import Context, Site, continual_model
from nlpcl.models.sizes import PerTask, tensor_bytes
from nlpcl.options import option
from nlpcl.ranges import Few, Rate
from nlpcl.strategies._shared.backbones import adapter_backbone
from nlpcl.strategies._shared.masks import ORIGINAL_GATES, GatePlugin, GateStrategy, MaskOptions, MaskPlugin

KERNELS = (3, 4, 5)


def squash(v: Tensor) -> Tensor:
    """Return |v|^2 / (1 + |v|^2) * v / |v| over the last axis (Sabour et al. 2017, eq. 1), finite at 0; in float32."""
    v = v.float()  # in half precision the squares of small components are 0
    square = v.square().sum(dim=-1, keepdim=True)
    return v * (square + 1e-12).sqrt() / (1 + square)


class TaskCapsules(PerTask):
    """One capsule per task and token, and its votes: p_k = squash(F_k x), u_{n|k} = W_{nk} p_k.

    :param hidden: H.
    :param n_tasks: T.
    :param size: length of a capsule.
    :param capsules: number of capsules n that are voted for.
    """

    kind = "capsules"

    def __init__(self, hidden: int, n_tasks: int, size: int, capsules: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_tasks, size, hidden) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_tasks, size))
        self.route = nn.Parameter(torch.randn(n_tasks, capsules, size, size))

    def forward(self, x: Tensor, tasks: int) -> Tensor:
        """Return votes (B, L, K, capsules, size) of the first K = `tasks` tasks, for x (B, L, H)."""
        return torch.einsum("knij,blkj->blkni", self.route[:tasks], self.capsules(x, tasks))

    def capsules(self, x: Tensor, tasks: int) -> Tensor:
        """Return the capsules p_k, (B, L, K, size)."""
        weight, bias = self.weight[:tasks], self.bias[:tasks]
        return squash(F.linear(x, weight.flatten(0, 1), bias.flatten()).unflatten(-1, bias.shape))

    def bytes_for(self, tasks: int) -> int:
        """Return the bytes of the maps of `tasks` tasks."""
        return tensor_bytes(p[:tasks] for p in self.parameters())


def allowed_tasks(task: Tensor | int, tasks: int, device: torch.device) -> Tensor:
    """Return (B, K, 1), or (K, 1) for one `task`: True for the tasks k up to a sample's own."""
    last = task if isinstance(task, int) else task[:, None, None]
    return torch.arange(tasks, device=device)[:, None] <= last


class DynamicRouting(nn.Module):
    """B-CL's semantic capsules: dynamic routing (Sabour et al. 2017, procedure 1) between tasks and capsules.

    b = 0; three times: c = softmax of b, v_n = sum_{k<=t} c_{kn} u_{n|k} for each token, b_{kn} += sum over a text's
    tokens of u_{n|k} . squash(v_n); output Linear([squash(v_1) squash(v_2) squash(v_3)]).

    :param hidden: H of the output.
    :param size: length of a capsule.
    :param capsules: number of semantic capsules n.
    :param over_tasks: as the original code: softmax over the tasks k instead of the capsules n, and v as it is.
    """

    ITERATIONS = 3

    def __init__(self, hidden: int, size: int, capsules: int, over_tasks: bool) -> None:
        super().__init__()
        self.out = init_linear(nn.Linear(capsules * size, hidden))
        self.over_tasks = over_tasks

    def forward(self, votes: Tensor, task: Tensor | int, mask: Tensor) -> Tensor:
        """Return knowledge (B, L, H) for task `task`; arguments as in `TransferRouting`."""
        # Agreement sums over all tokens of a text, too much for half precision.
        with torch.autocast(votes.device.type, enabled=False):
            v = self.route(votes.float(), task, mask.to(torch.float32))
        output: Tensor = self.out(v.flatten(2))
        return output

    def route(self, votes: Tensor, task: Tensor | int, mask: Tensor) -> Tensor:
        """Return the semantic capsules (B, L, capsules, size)."""
        batch, _, tasks, capsules, _ = votes.shape
        allowed = allowed_tasks(task, tasks, votes.device)
        logits = votes.new_zeros(batch, tasks, capsules)
        for iteration in range(self.ITERATIONS):
            if self.over_tasks:
                coupling = logits.masked_fill(~allowed, float("-inf")).softmax(dim=1)
            else:
                coupling = logits.softmax(dim=2) * allowed
            v = torch.einsum("bkn,blkni->blni", coupling, votes)
            if iteration < self.ITERATIONS - 1:  # what the last agreement would change is never used
                logits = logits + torch.einsum("blkni,blni,bl->bkn", votes, squash(v), mask)
        return v if self.over_tasks else squash(v)


class _WindowMax(torch.autograd.Function):
    """Finds for each text and filter the largest product of the filter with successive rows, (N, filters).

    Conv1d and max, as products of matrices: a convolution of 9 channels takes twice as long, and where only the maxima
    have a gradient nothing of the products need be kept.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, filters: Tensor, size: int, outside: Tensor, differentiable: bool) -> Tensor:
        """Take u (N, P + size - 1, channels), filters (filters, size * channels) and where no maximum is, (N, P)."""
        ctx.size, ctx.positions = size, outside.shape[1]
        products: Tensor = (windows(u, size) @ filters.t()).unflatten(0, outside.shape)
        products += torch.where(outside, float("-inf"), 0.0).to(u.dtype).unsqueeze(2)
        if not differentiable:
            return products.amax(dim=1)
        best, places = products.max(dim=1)
        ctx.save_for_backward(u, filters, places)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, filters, places = ctx.saved_tensors
        spread = grad.new_zeros(len(u), ctx.positions, grad.shape[1])
        spread = spread.scatter_(1, places.unsqueeze(1), grad.unsqueeze(1)).flatten(0, 1)
        of_windows = (spread @ filters).unflatten(0, (len(u), -1)).unflatten(2, (ctx.size, -1))
        of_u = torch.zeros_like(u)
        for i in range(ctx.size):
            of_u[:, i : i + ctx.positions] += of_windows[:, :, i]
        return of_u, spread.t() @ windows(u, ctx.size), None, None, None


def windows(u: Tensor, size: int) -> Tensor:
    """View each `size` successive rows of contiguous u (N, P + size - 1, channels) as (N * P, size * channels)."""
    texts, length, channels = u.shape
    shape = (texts, length - size + 1, size * channels)
    return u.as_strided(shape, (length * channels, channels, 1)).reshape(-1, size * channels)


class MaxConvolution(nn.Module):
    """max over positions of Conv_K(u) for K = 3, 4, 5, before the ReLU; padding K - 2 on both sides.

    Positions beyond a text's end are as if they were not there, so trimming changes nothing.

    :param channels: input channels.
    :param filters: filters of each kernel size.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(channels, filters, k, padding=k - 2) for k in KERNELS)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """Return (N, 3 * filters), for u (N, L, channels) and mask (N, L), True on the leading real positions."""
        kind = u.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else u.dtype
        u = (u * mask.unsqueeze(-1)).to(dtype)
        lengths = mask.sum(dim=1, keepdim=True)
        best = []
        for size, module in zip(KERNELS, self.convolutions, strict=True):
            convolution = cast(nn.Conv1d, module)
            assert convolution.bias is not None
            padded = F.pad(u, (0, 0, size - 2, size - 2))
            outside = torch.arange(padded.shape[1] - size + 1, device=u.device) >= lengths + size - 3
            filters = convolution.weight.transpose(1, 2).flatten(1).to(dtype)
            largest = _WindowMax.apply(padded, filters, size, outside, torch.is_grad_enabled())
            best.append(largest + convolution.bias)
        return torch.cat(best, dim=1)


class TransferRouting(nn.Module):
    """CTR's transfer capsules: what task t takes from tasks k <= t, for each token.

    u_{n|k} = W_{nk} p_k; q = ReLU(max Conv(U_t)); z_k = ReLU(max Conv'(U_k) + W_q q); similarity s_k and
    decision d_k from z_k; v_n = sum_{k<=t} d_k s_{k,n} u_{n|k}; output Linear([v_1 v_2 v_3]).
    The ReLU follows the maximum, which is the same thing, as q does not depend on the position.

    :param hidden: H of the output.
    :param size: length of a capsule.
    :param capsules: number of transfer capsules n.
    :param filters: filters of each kernel size.
    """

    def __init__(self, hidden: int, size: int, capsules: int, filters: int = 100) -> None:
        super().__init__()
        channels, summary = capsules * size, len(KERNELS) * filters
        self.query = MaxConvolution(channels, filters)
        self.key = MaxConvolution(channels, filters)
        self.query_map = init_linear(nn.Linear(summary, summary))
        self.similarity = init_linear(nn.Linear(summary, channels))
        self.decision = init_linear(nn.Linear(summary, 2))
        self.out = init_linear(nn.Linear(channels, hidden))

    def forward(self, votes: Tensor, task: Tensor | int, mask: Tensor) -> Tensor:
        """Return knowledge (B, L, H) for task `task`.

        :param votes: (B, L, K, capsules, size); with an int task K = task + 1, otherwise K = T.
        :param task: one int, or (B,); tasks after a sample's own have no say.
        :param mask: (B, L), True on real tokens.
        """
        votes = votes.transpose(1, 2).flatten(3)  # (B, K, L, 9)
        batch, tasks = votes.shape[:2]
        allowed = allowed_tasks(task, tasks, votes.device)
        own = votes[:, task] if isinstance(task, int) else votes[torch.arange(batch, device=votes.device), task]
        query = self.query_map(F.relu(self.query(own, mask)))
        keys = self.key(votes.flatten(0, 1), mask.repeat_interleave(tasks, dim=0)).unflatten(0, (batch, tasks))
        z = F.relu(keys + query.unsqueeze(1))
        weight = self.decide(self.decision(z)).unsqueeze(-1) * self.similarity(z) * allowed  # (B, K, 9)
        output: Tensor = self.out(torch.einsum("bkc,bklc->blc", weight, votes))
        return output

    def decide(self, logits: Tensor) -> Tensor:
        """Decide d_k in {0, 1}, (B, K): straight-through Gumbel-softmax in training, argmax at test."""
        if self.training:
            return F.gumbel_softmax(logits, tau=1.0, hard=True)[..., 0]
        return (logits[..., 0] > logits[..., 1]).to(logits.dtype)


Routing = DynamicRouting | TransferRouting


class CapsuleAdapter(Adapter):
    """The plug-in of B-CL and CTR: u = x + routing(votes of the task capsules); out = x + bottleneck(u).

    :param hidden: H.
    :param size: width of the inner layer.
    :param context: says the task and the attention mask of the batch.
    :param tasks: the task capsules.
    :param routing: makes knowledge (B, L, H) of their votes.
    """

    def __init__(self, hidden: int, size: int, context: Context, tasks: TaskCapsules, routing: Routing) -> None:
        super().__init__(hidden, size)
        self.tasks = tasks
        self.routing = routing
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        task, mask = self.context.task, self.context.mask
        assert mask is not None
        tasks = task + 1 if isinstance(task, int) else self.tasks.bias.shape[0]
        return x + self.bottleneck(x + self.routing(self.tasks(x, tasks), task, mask).to(x.dtype))

    def sites(self, prefix: str) -> list[Site]:
        """Return the gateable layers: those of the bottleneck and, of dynamic routing, the output map."""
        sites, out = super().sites(prefix), self.routing.out
        if isinstance(self.routing, DynamicRouting):
            sites.append(Site(f"{prefix}.knowledge", out, out, out.out_features, inputs=((None, out.in_features),)))
        return sites


ORIGINAL_CAPSULES = (
    *ORIGINAL_GATES,
    ({"options.parity": "True"}, {"options": {"routing_learning_rate": None}}),
)
"""What `parity` means for capsule plug-ins, so that a spec says what is run."""


class CapsuleOptions(MaskOptions):
    """The options of a method with task capsules."""

    capsule_size: Few = option(3, "length of a capsule; 3 in the original toolkit")
    capsules: Few = option(3, "number of capsules that the tasks' capsules are routed to; 3 in the original toolkit")
    routing_learning_rate: Rate | None = option(
        None,
        "learning rate of task capsules and routing where no mask protects them, or null for the optimizer's, as in "
        "the original toolkit",
    )


class CapsulePlugin(MaskPlugin[CapsuleOptions]):
    """Puts HAT's masks on the plug-ins; routing goes on training, and maps of tasks to come do not move."""

    @property
    def adapters(self) -> list[CapsuleAdapter]:
        """The plug-ins."""
        return cast(list[CapsuleAdapter], cast(BertAdapter, self.backbone).adapters())

    def factors(self, task: int) -> dict[nn.Parameter, Tensor]:
        factors = super().factors(task)
        for adapter in self.adapters:
            for p in adapter.tasks.parameters():
                known = torch.arange(p.shape[0], device=p.device) <= task
                factors[p] = known.to(p.dtype).reshape(-1, *[1] * (p.dim() - 1))
        return factors

    def shared(self) -> list[nn.Parameter]:
        return [p for adapter in self.adapters for p in adapter.routing.parameters()]


class CapsuleStrategy(GateStrategy):
    """A strategy that lives in capsule plug-ins at the adapters' places."""

    plugin_type = CapsulePlugin
    options: CapsuleOptions
    masks: CapsulePlugin

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> GatePlugin:
        model = continual_model(model, type(self).__name__)
        backbone = adapter_backbone(model, type(self).__name__)
        n_tasks, size, capsules = model.n_tasks, self.options.capsule_size, self.options.capsules

        def plug_in(hidden: int) -> CapsuleAdapter:
            tasks = TaskCapsules(hidden, n_tasks, size, capsules)
            return CapsuleAdapter(
                hidden, backbone.options.adapter_size, backbone.context, tasks, self.make_routing(hidden)
            )

        backbone.set_adapters(plug_in)
        plugin = super().make_plugin(model, optimizer)
        if self.options.routing_learning_rate is not None:
            at_sites = {id(p) for site in backbone.sites() for p in site.module.parameters()}
            of_capsules = [p for a in self.masks.adapters for p in [*a.tasks.parameters(), *a.routing.parameters()]]
            slow = [p for p in of_capsules if id(p) not in at_sites]
            optimizer.add_param_group({"params": slow, "lr": self.options.routing_learning_rate})
        return plugin

    @abstractmethod
    def make_routing(self, hidden: int) -> Routing:
        """Return the module that makes knowledge (B, L, hidden) of the task capsules' votes."""
