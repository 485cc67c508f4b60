"""How objects say what of them changes while a strategy trains, so that checkpoints can save it.

Plugins, strategies, memories and modules have two class attributes, which add up over the bases:

    state: names of attributes that every checkpoint saves
    task_state: names of those that live only while a task trains, saved by checkpoints within a task

Of a module, parameters and persistent buffers are saved anyway. What is not named is not saved, and no checkpoint sets
it. A value is plain data (None, bool, int, float, str and containers of them), a tensor, array, generator, module,
optimizer, scheduler or gradient scaler, examples of the stream, or an object that says its state, too.

A checkpoint is written into a strategy that was built anew. What has come into being since must be made again: a
module makes its layers in `set_extra_state`, as for torch's `load_state_dict`, and the class of any other object is
marked `@restorable`.
"""

from __future__ import annotations

from typing import TypeVar

_T = TypeVar("_T")
_RESTORABLE: dict[str, type] = {}


def restorable(cls: type[_T]) -> type[_T]:
    """Let checkpoints make objects of a class, without its constructor; all that they need is in `state`."""
    _RESTORABLE[class_name(cls)] = cls
    return cls


def restorable_class(name: str) -> type | None:
    """Return the class of that name which `restorable` has marked, or None."""
    return _RESTORABLE.get(name)


def class_name(cls: type) -> str:
    """Return the name of a class, as `module:qualified name`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def declared_state(cls: type, within_task: bool = True) -> tuple[str, ...] | None:
    """Return the names that a class and its bases declare, or None if none of them declares any.

    :param within_task: also those of `task_state`.
    """
    kinds = ("state", "task_state") if within_task else ("state",)
    if not any(kind in vars(base) for base in cls.__mro__ for kind in ("state", "task_state")):
        return None
    return tuple(name for base in cls.__mro__ for kind in kinds for name in vars(base).get(kind, ()))
