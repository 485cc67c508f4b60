"""The optimizer of an experience, and the schedules of its learning rate."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.optim import Optimizer


def linear_schedule(step: int, total: int, warmup: float) -> float:
    """Return the factor on the learning rate at step 0 .. total - 1, which rises for a share `warmup`, then falls.

    Devlin et al. 2019, section A.2. The first step's factor is above 0, the last one's too.
    """
    rising = max(1, round(warmup * total))
    return (step + 1) / rising if step < rising else max(0, total - step) / max(1, total - rising + 1)


def original_schedule(step: int, total: int, warmup: float) -> float:
    """Return the original toolkit's factor: its training loop and its optimizer each apply a linear schedule.

    w1(x) w2(x) with x = step / total; w1 = x / warmup, then 1 - x; w2 = x / warmup, then (1 - x) / (1 - warmup).
    Both are 0 at the end, which is asked for after the last step; if all steps warm up, nothing falls before.
    """
    x = step / total
    if x >= 1:
        return 0.0
    return (x / warmup) ** 2 if x < warmup else (1 - x) ** 2 / (1 - warmup)


def uncorrected(step: int, betas: tuple[float, float]) -> float:
    """Return (1 - beta_1^n) / sqrt(1 - beta_2^n), n = step + 1, which undoes Adam's bias correction.

    As a factor on the learning rate it is exact up to Adam's epsilon and a decoupled weight decay.
    """
    factor: float = (1 - betas[0] ** (step + 1)) / (1 - betas[1] ** (step + 1)) ** 0.5
    return factor


def new_optimizer(template: Optimizer, model: nn.Module, own_groups: list[dict[str, Any]]) -> Optimizer:
    """Return an optimizer of the template's class over the model's trainable parameters.

    A parameter keeps the options of its group in the template, others take the template's defaults. Biases, also
    those stacked over tasks, and LayerNorms get no weight decay. `own_groups` are added unchanged.
    """
    accepted = inspect.signature(type(template).__init__).parameters
    defaults = {k: v for k, v in template.defaults.items() if k in accepted}
    known: dict[int, dict[str, Any]] = {}
    for group in template.param_groups:
        options = {k: v for k, v in group.items() if k in defaults}
        known |= {id(p): options for p in group["params"]}
    own = {id(p) for group in own_groups for p in group["params"]}
    groups: dict[str, dict[str, Any]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in own:
            options = dict(known.get(id(p), defaults))
            if (p.dim() < 2 or name.endswith("bias")) and "weight_decay" in options:
                options["weight_decay"] = 0.0
            groups.setdefault(repr(options), {"params": [], **options})["params"].append(p)
    return type(template)([*groups.values(), *own_groups], **defaults)


def template_for(other: nn.Module, model: nn.Module, template: Optimizer) -> Optimizer:
    """Return a template for `other`, whose parameters have the options that `template` has for those of `model`.

    :param other: a module whose parameters are named like some of `model`'s.
    :param template: as in `new_optimizer`; it goes for parameters that it does not hold, too.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    counterparts = dict(other.named_parameters())
    groups = []
    for group in template.param_groups:
        held = [counterparts[names[id(p)]] for p in group["params"] if names.get(id(p)) in counterparts]
        groups.append({**group, "params": held})
    accepted = inspect.signature(type(template).__init__).parameters
    return type(template)(groups, **{k: v for k, v in template.defaults.items() if k in accepted})
