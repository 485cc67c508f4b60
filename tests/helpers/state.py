"""What of a trained strategy no checkpoint saves."""

from __future__ import annotations

from collections import deque
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nlpcl.runs.state import TEMPLATE
from nlpcl.training.state import declared_state

PLAIN = (type(None), bool, int, float, str, torch.device, torch.dtype, np.generic)


class Undeclared:
    """Finds the attributes that have changed in training and are not declared, as `Class.attribute`.

    An undeclared attribute must be as in a strategy that was built the same way: its plain data and its tensors, in
    containers and objects, too. References to layers and parameters of the model count for nothing: they are saved
    with the model.

    :param trained: a strategy after its training.
    :param fresh: another one, never trained.
    """

    def __init__(self, trained: Any, fresh: Any) -> None:
        self.found: list[str] = []
        models = (trained.model, fresh.model)
        parts = [part for model in models for part in (*model.modules(), *model.parameters(), *model.buffers())]
        self._saved = {id(part) for part in parts}
        self._visited: set[int] = set()
        self.look(trained, fresh)
        others = dict(fresh.model.named_modules())
        for name, module in trained.model.named_modules():
            if ours(module):
                self.look(module, others.get(name, module))

    def look(self, owner: Any, fresh: Any) -> None:
        """Look at the attributes of an object.

        :param fresh: its like in the strategy that was never trained, or None.
        """
        if id(owner) in self._visited:
            return
        self._visited.add(id(owner))
        declared = declared_state(type(owner)) or ()
        skipped: set[str] = set(TEMPLATE) if isinstance(owner, BaseTemplate) else set()
        if isinstance(owner, nn.Module):
            skipped |= set(vars(nn.Module()))
        for name, value in vars(owner).items():
            if name in declared:
                self.inside(value, getattr(fresh, name, None))
            elif name not in skipped and not self.alike(value, getattr(fresh, name, None)):
                self.found.append(f"{type(owner).__name__}.{name}")

    def inside(self, value: Any, fresh: Any) -> None:
        """Look at the objects in the value of a declared attribute, which a checkpoint restores."""
        for item, other in zip_longest(items_of(value), items_of(fresh)):
            self.inside(item, other)
        if ours(value) and id(value) not in self._saved:
            self.look(value, fresh if type(fresh) is type(value) else None)

    def alike(self, value: Any, fresh: Any) -> bool:
        """Whether an undeclared value is as it was before any training."""
        if id(value) in self._saved or value is fresh:
            return True
        if isinstance(value, PLAIN):
            return type(value) is type(fresh) and bool(value == fresh)
        if isinstance(value, Tensor):
            return isinstance(fresh, Tensor) and torch.equal(value, fresh)
        if isinstance(value, np.ndarray):
            return isinstance(fresh, np.ndarray) and np.array_equal(value, fresh)
        if isinstance(value, torch.Generator):
            return isinstance(fresh, torch.Generator) and torch.equal(value.get_state(), fresh.get_state())
        if isinstance(value, Optimizer):
            return isinstance(fresh, Optimizer) and not value.state
        if isinstance(value, LRScheduler):
            return False
        if isinstance(value, nn.Module):
            before = fresh.state_dict() if isinstance(fresh, nn.Module) else {}
            parts = value.state_dict(keep_vars=True)
            if not all(self.alike(part, before.get(name)) for name, part in parts.items()):
                return False
        if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            now, then = (self.besides_references(container) for container in (value, fresh))
            return len(now) == len(then) and all(map(self.alike, now, then))
        if ours(value):
            self.look(value, fresh if type(fresh) is type(value) else None)
        return True  # code, constants, and what Avalanche holds

    def besides_references(self, container: Any) -> list[Any]:
        """The items of a container without those that the model has, and their keys."""
        items = items_of(container)
        if isinstance(container, dict):
            items = [item for pair in container.items() if id(pair[1]) not in self._saved for item in pair]
        return [item for item in items if id(item) not in self._saved]


def ours(value: Any) -> bool:
    """Whether a value is an object of this package, with attributes of its own."""
    return type(value).__module__.startswith(("nlpcl.", "tests.")) and hasattr(value, "__dict__")


def items_of(value: Any) -> list[Any]:
    """The items of a container, of a dict its keys and values; none of anything else."""
    if isinstance(value, dict):
        return [item for pair in value.items() for item in pair]
    return list(value) if isinstance(value, (list, tuple, set, frozenset, deque)) else []
