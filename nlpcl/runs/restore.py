"""Writes the tree of a strategy's state into a strategy that was built the same way.

Whoever can write into a folder of runs can write a tree, so a tree can neither name nor call anything. `Restore` sets
declared attributes of objects that are there to values of the kind that they had, and makes no objects but those of
the classes listed here or marked as `restorable`. Anything else raises `NotSerializable`.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from avalanche.training.utils import ParamData
from torch import Tensor, nn
from torch.optim import Optimizer

from nlpcl.runs.state import (
    PLAIN,
    WITH_STATE_DICT,
    Node,
    NotSerializable,
    Streams,
    Untouched,
    attributes,
    constant,
    walked,
)
from nlpcl.training.internals import empty_buffers, parts_of, version_of
from nlpcl.training.state import class_name, declared_state, restorable_class

CONTAINERS: dict[str, Any] = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, deque, torch.Size, dict, OrderedDict)
}
_MISSING: Any = object()
WALKED: dict[str, Callable[[], Any]] = {
    class_name(ParamData): functools.partial(ParamData, "", (0,)),
    class_name(ReservoirSamplingBuffer): functools.partial(ReservoirSamplingBuffer, 1),
}
"""Make Avalanche's objects that come into being while its strategies train, by class."""
UNEXPECTED = (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError)
"""What reading a tree of another shape than `Capture` makes raises, or a tensor of another size."""


class Restore:
    """Writes nodes into objects that were built the same way as the captured ones: `node_KIND` a node of each kind.

    :param tensors: of `Capture`.
    :param device: where tensors go that were not on the host.
    :param untouched: as for `Capture`.
    :param streams: the benchmark's data.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], device: torch.device, untouched: Untouched, streams: Streams
    ) -> None:
        self.tensors = tensors
        self.device = device
        self.untouched = untouched
        self.streams = streams
        self._built: dict[str, Any] = {}
        self._modules: dict[str, nn.Module] = {}

    def value(self, node: Node, old: Any, path: str) -> Any:
        """Return what belongs at `path`, where `old` stands now; `old` itself, changed in place, wherever it can be."""
        kind, *content = node
        new = getattr(self, f"node_{kind}")(content, old, path)
        check(fits(old, new), path, f"{type(new).__name__} in the place of {type(old).__name__}")
        self._built[path] = new
        return new

    def node_plain(self, content: Node, old: Any, path: str) -> Any:
        (value,) = content
        check(value is None or type(value) in PLAIN, path, f"a {type(value).__name__} is no plain value")
        return value

    def node_same(self, content: Node, old: Any, path: str) -> Any:
        return self._built[content[0]]

    def node_kept(self, content: Node, old: Any, path: str) -> Any:
        check(old in self.untouched and self.untouched[old] == version_of(old), path, "is not stored")
        return old

    def node_constant(self, content: Node, old: Any, path: str) -> Any:
        check(constant(old), path, "is made while a task trains and cannot be stored")
        return old

    def node_tensor(self, content: Node, old: Any, path: str) -> Tensor:
        device, requires_grad = content
        saved = self.tensors[path]
        if isinstance(old, nn.Parameter):
            return self._fill(old, path).requires_grad_(requires_grad)
        return saved.clone().to("cpu" if device == "cpu" else self.device).requires_grad_(requires_grad)

    def _fill(self, old: Tensor, path: str) -> Tensor:
        check_alike(old, self.tensors[path], path)
        with torch.no_grad():
            return old.copy_(self.tensors[path])

    def node_array(self, content: Node, old: Any, path: str) -> Any:
        return self.tensors[path].clone().numpy()

    def node_generator(self, content: Node, old: Any, path: str) -> torch.Generator:
        generator = old if isinstance(old, torch.Generator) else torch.Generator()
        return generator.set_state(self.tensors[path])

    def node_state(self, content: Node, old: Any, path: str) -> Any:
        check(isinstance(old, WITH_STATE_DICT), path, "is made while a task trains")
        state = old.state_dict()
        names = set(state)
        self.value(content[0], state, f"{path}.state")
        check_held(path, set(state), names)
        old.load_state_dict(state)
        return old

    def node_optimizer(self, content: Node, old: Any, path: str) -> Any:
        check(isinstance(old, Optimizer), path, "is made while a task trains")
        names = [set(group) for group in old.param_groups]
        groups, state = self.value(content[0], [old.param_groups, {}], f"{path}.state")
        for group, expected in zip(groups, names, strict=True):
            check_held(path, set(group), expected)
        parameters = [p for group in groups for p in group["params"]]
        known = all(isinstance(p, nn.Parameter) for p in parameters) and set(state) <= set(parameters)
        check(known, path, "it is of other parameters")
        check(len({frozenset(kept) for kept in state.values()}) <= 1, path, "its state differs between parameters")
        for p, kept in state.items():
            shapes = {t.shape for t in kept.values() if isinstance(t, Tensor)}
            check(shapes <= {p.shape, torch.Size()}, path, "its state has another shape than its parameter")
        old.state.clear()
        old.state.update(state)
        return old

    def node_dataset(self, content: Node, old: Any, path: str) -> Any:
        part_of, row_of = self.tensors[f"{path}.part"], self.tensors[f"{path}.row"]
        places = self.value(content[0], _MISSING, f"{path}.places")
        joined, order = None, torch.empty_like(part_of)
        start = 0
        for i, place in enumerate(places):
            positions = (part_of == i).nonzero()[:, 0]
            data, rows = self.streams.datasets[place], row_of[positions].tolist()
            check(all(0 <= row < len(data) for row in rows), path, "an experience has no such example")
            part = data.subset(rows)
            joined = part if joined is None else joined.concat(part)
            order[positions] = torch.arange(start, start + len(positions))
            start += len(positions)
        check(start == len(order), path, "holds examples of no experience")
        return old if joined is None else joined.subset(order.tolist())

    def node_dict(self, content: Node, old: Any, path: str) -> Any:
        name, items = content
        before = dict(old) if isinstance(old, dict) else {}
        new = self._built[path] = old if type(old).__name__ == name else CONTAINERS[name]()
        new.clear()
        for i, (key, value) in enumerate(items):
            k = self.value(key, _MISSING, f"{path}.{i}.key")
            new[k] = self.value(value, before.get(k, _MISSING), f"{path}.{i}")
        return new

    def node_items(self, content: Node, old: Any, path: str) -> Any:
        name, nodes = content
        same = type(old).__name__ == name
        before = list(old) if same and not isinstance(old, (set, frozenset)) else []
        if isinstance(old, list):
            self._built[path] = old
        olds = [*before, *[_MISSING] * (len(nodes) - len(before))]
        items = [self.value(node, old, f"{path}.{i}") for i, (node, old) in enumerate(zip(nodes, olds, strict=False))]
        if same and isinstance(old, (list, deque)):
            old.clear()
            old.extend(items)
            return old
        if same and isinstance(old, tuple) and hasattr(old, "_fields"):
            return type(old)(*items)
        return CONTAINERS[name](items)

    def node_module(self, content: Node, old: Any, path: str) -> Any:
        name, (training, extra, parts, held) = content
        if old is _MISSING or old is None:  # a copy of the model, say
            old = copy.deepcopy(self._modules[name])
        kind = class_name(type(old))
        check(isinstance(old, nn.Module) and kind == name, path, f"a {name} in the place of a {kind}")
        self._built[path] = self._modules[name] = old
        check(isinstance(training, bool), path, f"its mode is {training!r}")
        old.training = training
        if extra is not None:  # the module makes layers that it had, as with torch's `load_state_dict`
            now = old.get_extra_state()
            state = self.value(extra, now, f"{path}.extra")
            if not (isinstance(state, Tensor) and torch.equal(now, state)):
                old.set_extra_state(state)
        present = parts_of(old)
        # What is empty is filled while a task trains.
        check_held(path, set(parts) - empty_buffers(old), set(present))
        for part, node in parts.items():
            place, now = f"{path}.{part}", present.get(part)
            if now is None:
                setattr(old, part, self.value(node, torch.empty(0), place))
            elif isinstance(now, Tensor) and node[0] == "tensor":
                self._built[place] = self._fill(now, place).requires_grad_(node[2])
            else:
                check(self.value(node, now, place) is now, place, "is another one than before")
        self._hold(held, old, path)
        return old

    def node_object(self, content: Node, old: Any, path: str) -> Any:
        name, held = content
        if old is _MISSING or old is None:
            cls: Any = WALKED.get(name) or restorable_class(name)
            check(cls is not None, path, f"a {name} is made while a task trains")
            # Without attributes, if its class declares what it needs.
            return self._hold(held, cls() if name in WALKED else cls.__new__(cls), path, made=True)
        kind, declares = class_name(type(old)), walked(old) or declared_state(type(old)) is not None
        check(declares and kind == name, path, f"a {name} in the place of a {kind}")
        return self._hold(held, old, path)

    def _hold(self, held: dict[str, Node], owner: Any, path: str, made: bool = False) -> Any:
        """Set the attributes of an object, all that it declares or, if it is walked, all that it has."""
        self._built[path] = owner
        now, cls = vars(owner), type(owner)
        needed = {name for name, _ in attributes(owner, within_task=False)}
        if made and not walked(owner):
            needed = set(declared_state(cls, within_task=False) or ())
        check_held(path, set(held), needed | (set(held) & set(declared_state(cls) or ())))
        for name, node in held.items():
            before = now.get(name, _MISSING)
            after = self.value(node, before, f"{path}.{name}")
            if isinstance(before, Tensor) and before.numel() and not walked(owner):
                check_alike(before, after, f"{path}.{name}")
            if after is not before:
                now[name] = after
        return owner


def check(sound: bool, path: str, fault: str) -> None:
    """Go on only if what stands at `path` is sound.

    :raises NotSerializable: it is not, and `fault` says why.
    """
    if not sound:
        raise NotSerializable(f"{path}: {fault}")


def check_held(path: str, names: set[str], expected: set[str]) -> None:
    """Refuse other names than those that are expected.

    :raises NotSerializable: with those that are too many or missing.
    """
    wrong = sorted(map(str, names ^ expected))
    check(not wrong, path, f"{', '.join(wrong[:3])} too many or missing")


def check_alike(old: Tensor, new: Tensor, path: str) -> None:
    """Refuse a tensor of another shape or type.

    :raises NotSerializable: with both.
    """
    fault = f"{tuple(new.shape)} {new.dtype}, not {tuple(old.shape)} {old.dtype}"
    check((old.shape, old.dtype) == (new.shape, new.dtype), path, fault)


def fits(old: Any, new: Any) -> bool:
    """Return whether a value is of the kind that stands in its place: what is no plain data stays the same object."""
    if new is old or old is _MISSING or old is None:
        return True
    if isinstance(old, np.generic):
        old = old.item()
    for kind in (Tensor, AvalancheDataset):
        if isinstance(old, kind):
            return isinstance(new, kind)
    if isinstance(old, PLAIN) and new is None:
        return True
    return type(new) is type(old) and isinstance(old, (*PLAIN, np.ndarray, *CONTAINERS.values()))
