"""What changes while a strategy trains, as plain data: tensors, and a tree that JSON can hold. Nothing is pickled.

`Capture` makes the tree of a strategy; `nlpcl.runs.restore` writes it into one that was built the same way. Objects say
which of their attributes are in it (`nlpcl.training.state`). Only Avalanche's own, and plugins made for Avalanche
alone, say nothing: they are walked attribute by attribute.

A node of the tree is a list that begins with its kind. What is seen twice is stored once and shared again afterwards.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base import BaseTemplate
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from torch.utils.hooks import RemovableHandle

from nlpcl.training.batches import WholeBatches
from nlpcl.training.internals import attributes_of, parts_of, version_of
from nlpcl.training.state import class_name, declared_state

Node = list[Any]
# Code and constants: what stands in the object that is restored into is the same.
CONSTANT = (
    *(type, types.ModuleType, functools.partial, logging.Logger, RemovableHandle, EvaluationPlugin),
    *(torch.dtype, torch.device),
    *(CLExperience, CLScenario, CLStream, Dataset),
)
# Of Avalanche's templates: set anew by each call of `train` and `eval`.
TEMPLATE = {
    *("experience", "adapted_dataset", "dataloader", "mbatch", "mb_output", "loss"),
    *("current_eval_stream", "_eval_streams", "_distributed_check", "is_training", "train_epochs"),
    "w_bef",  # MER's
}
OF_STREAMS = {"targets", "targets_task_labels", "lengths"}
WITH_STATE_DICT = (LRScheduler, torch.amp.GradScaler)
PLAIN = (bool, int, float, str)
OF_MODULES = set(vars(nn.Module()))


class NotSerializable(Exception):
    """Something has no place in a checkpoint, or does not fit the object it should go into; says where."""


def walked(value: Any) -> bool:
    """Return whether an object is Avalanche's, or made for Avalanche alone, and declares no state."""
    cls = type(value)
    ours = declared_state(cls) is not None
    return not ours and (isinstance(value, (BasePlugin, BaseTemplate)) or cls.__module__.startswith("avalanche."))


def attributes(owner: Any, within_task: bool) -> Iterator[tuple[str, Any]]:
    """Yield names and values of the attributes of an object that are stored."""
    if walked(owner):
        skipped = TEMPLATE if isinstance(owner, BaseTemplate) else OF_MODULES if isinstance(owner, nn.Module) else ()
        yield from ((name, value) for name, value in vars(owner).items() if name not in skipped)
        return
    for name in dict.fromkeys(declared_state(type(owner), within_task) or ()):
        if name in vars(owner):
            yield name, vars(owner)[name]


Untouched = Mapping[Tensor, int]
"""Tensors with their version counters: while they have this version they are not stored."""


def constant(value: Any) -> bool:
    """Return whether a value is code or the like, which is the same in an object that is built the same way."""
    return isinstance(value, CONSTANT) or inspect.isroutine(value)


class Streams:
    """The datasets of a benchmark's experiences, by stream and number.

    :param benchmark: with streams of experiences.
    """

    def __init__(self, benchmark: CLScenario[Any]) -> None:
        self.datasets: dict[tuple[str, int], Any] = {}
        self.places: dict[int, tuple[str, int]] = {}
        """By the `id` of each part of their data."""
        for name, stream in benchmark.streams.items():
            for i, experience in enumerate(stream):
                self.datasets[name, i] = data = experience.dataset
                with suppress(TypeError):  # made example by example: nothing of it can be named
                    self.places |= {id(part): (name, i) for part in WholeBatches(data, []).parts}


class Capture:
    """Turns objects into nodes.

    :param within_task: also store what lives while a task trains.
    :param untouched: tensors that are not stored as long as they do not change.
    :param streams: the benchmark's data.
    """

    def __init__(self, within_task: bool, untouched: Untouched, streams: Streams) -> None:
        self.within_task = within_task
        self.untouched = untouched
        self.streams = streams
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []  # an `id` names an object only as long as it lives

    def node(self, value: Any, path: str) -> Node:
        """Return the node of what stands at `path`.

        :raises NotSerializable: it is of a kind that cannot be stored.
        """
        if value is None or type(value) in PLAIN:
            return ["plain", value]
        if isinstance(value, np.generic):
            return ["plain", value.item()]
        if id(value) in self._seen:
            return ["same", self._seen[id(value)]]
        self._seen[id(value)] = path
        self._alive.append(value)
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            self.tensors[path] = torch.from_numpy(value.copy())
            return ["array"]
        if isinstance(value, torch.Generator):
            self.tensors[path] = value.get_state()
            return ["generator"]
        if isinstance(value, WITH_STATE_DICT):
            return ["state", self.node(value.state_dict(), f"{path}.state")]
        if isinstance(value, Optimizer):  # not its state_dict, which knows parameters by number only
            return ["optimizer", self.node([value.param_groups, dict(value.state)], f"{path}.state")]
        if isinstance(value, AvalancheDataset):
            return ["dataset", self._dataset(value, path)]
        if isinstance(value, dict):
            pairs = enumerate(value.items())
            items = [[self.node(k, f"{path}.{i}.key"), self.node(v, f"{path}.{i}")] for i, (k, v) in pairs]
            return ["dict", type(value).__name__, items]
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            return ["items", type(value).__name__, [self.node(item, f"{path}.{i}") for i, item in enumerate(value)]]
        if constant(value):
            return ["constant"]
        if isinstance(value, nn.Module):
            return self._module(value, path)
        return ["object", class_name(type(value)), self._held(value, path)]

    def _tensor(self, value: Tensor, path: str) -> Node:
        if value in self.untouched and self.untouched[value] == version_of(value):
            return ["kept"]
        self.tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return ["tensor", value.device.type, value.is_leaf and value.requires_grad]

    def _dataset(self, data: Any, path: str) -> Node:
        """Note of which examples of which experiences a dataset, such as a replay buffer, consists."""
        try:
            whole = WholeBatches(data, [])
        except TypeError as error:
            raise NotSerializable(f"{path}: {error}") from error
        self.tensors[f"{path}.part"], self.tensors[f"{path}.row"] = whole.part_of, whole.row_of
        places = [self.streams.places.get(id(part)) for part in whole.parts]
        if None in places or not set(attributes_of(data)) <= OF_STREAMS:
            raise NotSerializable(f"{path}: holds more than examples of the stream")
        return self.node(places, f"{path}.places")

    def _module(self, module: nn.Module, path: str) -> Node:
        """A module's layers, parameters and persistent buffers, and what else it declares."""
        extra = None
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            extra = self.node(module.get_extra_state(), f"{path}.extra")
        parts = {name: self.node(part, f"{path}.{name}") for name, part in parts_of(module).items()}
        held = self._held(module, path)
        return ["module", class_name(type(module)), [module.training, extra, parts, held]]

    def _held(self, owner: Any, path: str) -> dict[str, Node]:
        if not isinstance(owner, nn.Module) and not walked(owner) and declared_state(type(owner)) is None:
            raise NotSerializable(f"{path}: a {type(owner).__name__} declares no state")
        return {name: self.node(value, f"{path}.{name}") for name, value in attributes(owner, self.within_task)}
