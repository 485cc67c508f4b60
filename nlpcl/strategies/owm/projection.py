"""The inputs of linear and convolutional layers, and the projector away from those already seen (OWM).

Zeng et al., Nature Machine Intelligence 2019, https://arxiv.org/abs/1810.01256. A layer computes `[W b] [x; 1]`;
if each change of [W b] is multiplied by P = alpha (alpha I + A'A)^-1, where the rows of A are inputs [x; 1] seen
before, then what the layer answers to them changes by a factor of about alpha.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpcl.training.state import restorable

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
        x = x.unsqueeze(2)
        rows = F.unfold(x, (1, *kernel), (1, *dilation), (0, *padding), (1, *stride)).mT
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


def example_means(module: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return each example's mean input over its real positions, (B, d), in float32."""
    rows = layer_inputs(module, x.detach().float())
    real = real_positions(module, rows.shape[1], mask)
    if real is None:
        return rows.mean(dim=1)
    weight = real.unsqueeze(2).to(rows.dtype)  # no matrix product: autocast would round it
    return (rows * weight).sum(dim=1) / weight.sum(dim=1)


def batch_inputs(module: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the inputs that the original OWM takes from a mini-batch, in float32.

    The mean input (1, d) of a linear layer; of a convolution the patches of the mean input (n, d), each patch averaged
    over the examples that have it. A patch that none has is 0, bias included, which leaves P as it is.
    """
    if isinstance(module, nn.Linear):
        return example_means(module, x, mask).mean(dim=0, keepdim=True)
    rows = layer_inputs(module, x.detach().float())
    real = real_positions(module, rows.shape[1], mask)
    if real is None:
        return rows.mean(dim=0)
    weight = real.unsqueeze(2).to(rows.dtype)
    return (rows * weight).sum(dim=0) / weight.sum(dim=0).clamp(min=1)


def joined(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a copy of [W b], (out, d)."""
    return torch.cat([weight.flatten(1), *([] if bias is None else [bias.unsqueeze(1)])], dim=1)


@restorable
class Projector:
    """P of one layer, (d, d), which starts at the identity.

    P is float64, since the recursion is ill-conditioned for a small alpha; `applied` is P in the weight's dtype.

    :param module: as in `layer_inputs`; P lies on its device.
    """

    state = ("module", "p", "applied")

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        weight = module.weight
        assert isinstance(weight, Tensor)
        columns = weight[0].numel() + (self.module.bias is not None)
        self.p = torch.eye(columns, dtype=torch.float64, device=weight.device)
        self.applied = self.p.to(weight.dtype)

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
        return joined(self.module.weight.detach(), None if self.module.bias is None else self.module.bias.detach())

    @torch.no_grad()
    def project_change(self, before: Tensor) -> None:
        """[W b] <- [W b]_before + ([W b] - [W b]_before) P, for `before` from `values`."""
        change = self.values() - before
        self._split(torch.addmm(before, change, self.applied), self.module.weight, self.module.bias)

    @torch.no_grad()
    def project_gradient(self) -> None:
        """grad [W b] <- grad [W b] P; nothing if the layer has no gradient."""
        weight, bias = self.module.weight.grad, None if self.module.bias is None else self.module.bias.grad
        if weight is not None:
            self._split(joined(weight, bias) @ self.applied, weight, bias)

    @staticmethod
    def _split(rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        weight.copy_(rows[:, : weight[0].numel()].view_as(weight))
        if bias is not None:
            bias.copy_(rows[:, -1])
