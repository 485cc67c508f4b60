"""What changes while a strategy trains, as plain data: tensors, and a tree that JSON can hold. Nothing is pickled.

`capture` walks objects by their attributes, so a method's own attributes are saved without code of its own, and
`restore` writes them into objects that were built the same way. Two class attributes say what is left out:
`transient`, what is rebuilt or means nothing later, and `of_task`, what only lives while a task trains. A module that
grows makes its layers in `set_extra_state`, as for torch's `load_state_dict`.

A node of the tree is a list that begins with its kind. What is seen twice is stored once and shared again afterwards.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from torch.utils.hooks import RemovableHandle

from nlpcl.training.batches import WholeBatches

Node = list[Any]
# Code and constants: what stands in the object that is restored into is the same.
CONSTANT = (type, types.ModuleType, functools.partial, torch.dtype, logging.Logger, RemovableHandle, EvaluationPlugin)
# Of Avalanche's templates: set anew by each call of `train` and `eval`.
TEMPLATE = {
    *("experience", "adapted_dataset", "dataloader", "mbatch", "mb_output", "loss"),
    *("current_eval_stream", "_eval_streams", "_distributed_check"),
}
DATA = (CLExperience, CLScenario, CLStream, Dataset)
OF_STREAMS = {"targets", "targets_task_labels", "lengths"}
WITH_STATE_DICT = (LRScheduler, torch.amp.GradScaler)
EXTRA = "get_extra_state()"
MISSING: Any = object()


class NotSerializable(Exception):
    """Something has no place in a checkpoint, or does not fit the object it should go into; says where."""


def left_out(owner: Any, within_task: bool) -> set[str]:
    """Attributes of an object that are not stored."""
    kinds = ("transient",) if within_task else ("transient", "of_task")
    template = TEMPLATE if isinstance(owner, BaseTemplate) else set()
    return template | {name for cls in type(owner).__mro__ for kind in kinds for name in cls.__dict__.get(kind, ())}


def attributes(owner: Any, within_task: bool) -> Iterator[tuple[str, Any]]:
    """Names and values of what an object holds; of library modules only parameters, buffers and modules."""
    skipped = left_out(owner, within_task)
    library = isinstance(owner, nn.Module) and type(owner).__module__.startswith(("torch.", "transformers."))
    for name, value in vars(owner).items():
        hooks = isinstance(owner, nn.Module) and "_hooks" in name
        if hooks or name in skipped or (library and name not in ("_parameters", "_buffers", "_modules", "training")):
            continue
        yield name, value


class Streams:
    """The datasets of a benchmark's experiences, by stream and number.

    :param benchmark: with streams of experiences.
    """

    def __init__(self, benchmark: CLScenario[Any]) -> None:
        self._datasets: dict[tuple[str, int], Any] = {}
        self._places: dict[int, tuple[str, int]] = {}
        for name, stream in benchmark.streams.items():
            for i, experience in enumerate(stream):
                self._datasets[name, i] = data = experience.dataset
                with suppress(TypeError):  # made example by example: nothing of it can be named
                    self._places |= {id(part): (name, i) for part in WholeBatches(data, []).parts}

    def place(self, part: Any) -> tuple[str, int] | None:
        """Stream and number of the experience whose data `part` is."""
        return self._places.get(id(part))

    def dataset(self, place: tuple[str, int]) -> Any:
        """The data there."""
        return self._datasets[place]


class Capture:
    """Turns objects into nodes.

    :param within_task: also store what lives while a task trains.
    :param untouched: by `id`, tensors with their version counters: while they have this version they are not stored.
    :param streams: the benchmark's data.
    """

    def __init__(
        self, within_task: bool, untouched: Mapping[int, tuple[weakref.ref[Tensor], int]], streams: Streams
    ) -> None:
        self.within_task = within_task
        self.untouched = untouched
        self.streams = streams
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []  # an `id` names an object only as long as it lives

    def node(self, value: Any, path: str) -> Node:
        """The node of what stands at `path`.

        :raises NotSerializable: it is of a kind that cannot be stored.
        """
        if value is None or type(value) in (bool, int, float, str):
            return ["=", value]
        if isinstance(value, np.generic):
            return ["=", value.item()]
        if id(value) in self._seen:
            return ["same", self._seen[id(value)]]
        self._seen[id(value)] = path
        self._alive.append(value)
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray):
            self.tensors[path] = torch.from_numpy(value.copy())
            return ["array"]
        if isinstance(value, torch.Generator):
            self.tensors[path] = value.get_state()
            return ["generator", value.device.type]
        if isinstance(value, WITH_STATE_DICT):
            return ["state", self.node(value.state_dict(), f"{path}.state")]
        if isinstance(value, Optimizer):  # not its state_dict, which knows parameters by number only
            return ["optimizer", self.node([value.param_groups, dict(value.state)], f"{path}.state")]
        if isinstance(value, AvalancheDataset):
            return ["dataset", *self._dataset(value, path)]
        return self._container(value, path)

    def _tensor(self, value: Tensor, path: str) -> Node:
        known, version = self.untouched.get(id(value), (lambda: None, 0))
        if known() is value and value._version == version:  # an `id` may have passed to another tensor
            return ["kept", ""]
        self.tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        leaf = value.is_leaf and value.requires_grad
        return ["tensor", value.device.type, "parameter" if isinstance(value, nn.Parameter) else "plain", leaf]

    def _dataset(self, data: Any, path: str) -> list[Node]:
        """Which examples of which experiences a dataset, such as a replay buffer, consists of."""
        try:
            whole = WholeBatches(data, [])
        except TypeError as error:
            raise NotSerializable(f"{path}: {error}") from error
        self.tensors[f"{path}.part"], self.tensors[f"{path}.row"] = whole.part_of, whole.row_of
        places = [self.streams.place(part) for part in whole.parts]
        if None in places or not set(data._data_attributes) <= OF_STREAMS:
            raise NotSerializable(f"{path}: holds more than examples of the stream")
        return [self.node(places, f"{path}.places")]

    def _container(self, value: Any, path: str) -> Node:
        if isinstance(value, dict):
            pairs = enumerate(value.items())
            items = [[self.node(k, f"{path}.{i}.key"), self.node(v, f"{path}.{i}")] for i, (k, v) in pairs]
            return ["dict", type(value).__name__, items]
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            items = [self.node(item, f"{path}.{i}") for i, item in enumerate(value)]
            return ["items", type(value).__name__, items]
        if isinstance(value, (*CONSTANT, *DATA)) or inspect.isroutine(value):
            return ["constant", name_of(value)]
        if isinstance(value, torch.device):
            return ["device", value.type]
        if not hasattr(value, "__dict__"):
            raise NotSerializable(f"{path}: a {type(value).__name__} cannot be stored")
        held = {name: self.node(v, f"{path}.{name}") for name, v in attributes(value, self.within_task)}
        if isinstance(value, nn.Module) and type(value).get_extra_state is not nn.Module.get_extra_state:
            held = {EXTRA: self.node(value.get_extra_state(), f"{path}.{EXTRA}"), **held}
        return ["object", f"{type(value).__module__}:{type(value).__qualname__}", held]


def name_of(value: Any) -> str:
    """The name by which `named` finds a function or class, if it has one."""
    name = getattr(value, "__name__", "")
    if getattr(torch, name, None) is value:  # torch's built-in functions do not say where they are found
        return f"torch:{name}"
    return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"


def named(name: str) -> Any:
    """What is called `module:qualified name` and loaded already; None if nothing is."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found


class Restore:
    """Writes nodes into objects that were built the same way as the captured ones.

    :param tensors: of `Capture`.
    :param device: where tensors go that were not on the host.
    :param streams: the benchmark's data.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, streams: Streams) -> None:
        self.tensors = tensors
        self.device = device
        self.streams = streams
        self._built: dict[str, Any] = {}
        self._written: set[int] = set()
        self._modules: dict[type, nn.Module] = {}

    def value(self, node: Node, old: Any, path: str) -> Any:
        """What belongs at `path`, where `old` stands now; `old` itself, changed in place, wherever it can be.

        :raises NotSerializable: it does not fit.
        """
        kind = node[0]
        if kind == "=":
            return node[1]
        if kind == "same":
            return self._built[node[1]]
        if isinstance(old, nn.Module):
            self._modules.setdefault(type(old), old)
        new = getattr(self, f"_{kind}" if kind != "items" else "_items")(node, old, path)
        self._built[path] = new
        return new

    def _constant(self, node: Node, old: Any, path: str) -> Any:
        found = named(node[1]) if old is MISSING else old
        if found is None:
            raise NotSerializable(f"{path}: is made while a task trains and cannot be stored")
        return found

    _kept = _constant

    def _device(self, node: Node, old: Any, path: str) -> torch.device:
        return torch.device("cpu") if node[1] == "cpu" else self.device

    def _tensor(self, node: Node, old: Any, path: str) -> Tensor:
        _, device, kind, requires_grad = node
        saved = self.tensors[path]
        fits = isinstance(old, Tensor) and old.is_leaf and (old.shape, old.dtype) == (saved.shape, saved.dtype)
        if fits and isinstance(old, nn.Parameter) == (kind == "parameter") and id(old) not in self._written:
            self._written.add(id(old))
            with torch.no_grad():
                old.copy_(saved)
            return old.requires_grad_(requires_grad)
        new = saved.clone().to("cpu" if device == "cpu" else self.device)
        return nn.Parameter(new, requires_grad) if kind == "parameter" else new.requires_grad_(requires_grad)

    def _array(self, node: Node, old: Any, path: str) -> Any:
        return self.tensors[path].clone().numpy()

    def _generator(self, node: Node, old: Any, path: str) -> torch.Generator:
        generator = old if isinstance(old, torch.Generator) else torch.Generator(node[1])
        generator.set_state(self.tensors[path])
        return generator

    def _state(self, node: Node, old: Any, path: str) -> Any:
        if not isinstance(old, WITH_STATE_DICT):
            raise NotSerializable(f"{path}: is made while a task trains")
        old.load_state_dict(self.value(node[1], MISSING, f"{path}.state"))
        return old

    def _optimizer(self, node: Node, old: Any, path: str) -> Optimizer:
        if not isinstance(old, Optimizer):
            raise NotSerializable(f"{path}: is made while a task trains")
        _, state = self.value(node[1], [old.param_groups, dict(old.state)], f"{path}.state")
        old.state.clear()
        old.state.update(state)
        return old

    def _dataset(self, node: Node, old: Any, path: str) -> Any:
        part_of, row_of = self.tensors[f"{path}.part"], self.tensors[f"{path}.row"]
        places = self.value(node[1], MISSING, f"{path}.places")
        joined, order = None, torch.empty_like(part_of)
        start = 0
        for i, place in enumerate(places):
            positions = (part_of == i).nonzero()[:, 0]
            part = self.streams.dataset(place).subset(row_of[positions].tolist())
            joined = part if joined is None else joined.concat(part)
            order[positions] = torch.arange(start, start + len(positions))
            start += len(positions)
        return old if joined is None else joined.subset(order.tolist())

    def _dict(self, node: Node, old: Any, path: str) -> Any:
        kinds: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict}
        before = dict(old) if isinstance(old, dict) else {}
        if type(old).__name__ != node[1] and node[1] not in kinds:
            raise NotSerializable(f"{path}: a {node[1]} is made while a task trains")
        new = self._built[path] = old if type(old).__name__ == node[1] else kinds[node[1]]()
        new.clear()
        for i, (key, value) in enumerate(node[2]):
            k = self.value(key, MISSING, f"{path}.{i}.key")
            new[k] = self.value(value, before.get(k, MISSING), f"{path}.{i}")
        return new

    def _items(self, node: Node, old: Any, path: str) -> Any:
        kinds = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque, torch.Size)}
        same = type(old).__name__ == node[1]
        before = list(old) if same and not isinstance(old, (set, frozenset)) else []
        if isinstance(old, list):
            self._built[path] = old
        items = [
            self.value(item, before[i] if i < len(before) else MISSING, f"{path}.{i}") for i, item in enumerate(node[2])
        ]
        if same and isinstance(old, (list, deque)):
            old.clear()
            old.extend(items)
            return old
        if node[1] in kinds:
            return kinds[node[1]](items)
        if same and isinstance(old, tuple):  # a named one
            return type(old)(*items)
        raise NotSerializable(f"{path}: a {node[1]} is made while a task trains")

    def _object(self, node: Node, old: Any, path: str) -> Any:
        _, name, held = node
        same = f"{type(old).__module__}:{type(old).__qualname__}" == name
        new = self._built[path] = old if same else self._made(name, path)
        if isinstance(new, nn.Module):
            self._modules.setdefault(type(new), new)
        for attribute, value in held.items():
            if attribute == EXTRA:
                self._extra(value, new, path)
                continue
            before = vars(new).get(attribute, MISSING)
            after = self.value(value, before, f"{path}.{attribute}")
            if after is not before:
                vars(new)[attribute] = after
        return new

    def _extra(self, node: Node, module: nn.Module, path: str) -> None:
        """As torch's `load_state_dict`, by which a module makes layers that it had when it was stored."""
        state = self.value(node, MISSING, f"{path}.{EXTRA}")
        if not isinstance(state, Tensor) or not torch.equal(module.get_extra_state(), state):
            module.set_extra_state(state)

    def _made(self, name: str, path: str) -> Any:
        """A new object of a class that is loaded already; a module as a copy of another of its class."""
        cls: Any = named(name)
        if not inspect.isclass(cls):
            raise NotSerializable(f"{path}: there is no {name}")
        if cls in self._modules:
            return copy.deepcopy(self._modules[cls])
        if issubclass(cls, nn.Module) and cls.__module__.startswith("torch."):
            raise NotSerializable(f"{path}: a {cls.__name__} is made while a task trains")
        made: Any = cls.__new__(cls)
        if isinstance(made, nn.Module):
            nn.Module.__init__(made)
        return made
