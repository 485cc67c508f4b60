"""The base of this package's plugins."""

from __future__ import annotations

from typing import Any, ClassVar

from avalanche.core import SupervisedPlugin

from nlpcl.options import Options
from nlpcl.training.protocols import Strategy


class Plugin(SupervisedPlugin[Strategy], supports_distributed=True):
    """A method as a plugin of any Avalanche strategy; hooks are Avalanche's.

    A method names the class of its options, `options_type`, and gets its values as `self.options`. It is made with the
    object or with its values: `EWCPlugin(EWCOptions(lamb=500))` is `EWCPlugin(lamb=500)`.

    It may have two more methods: `parameter_group(strategy) -> dict` gives the optimizer's group of its own parameters,
    which the strategy does not clip, and `kept_bytes() -> dict` by kind the bytes that it keeps outside the model.

    :ivar state: names of the attributes that a checkpoint saves; those of a class and of its bases add up.
    :ivar task_state: names of attributes that live only while a task trains, which checkpoints within a task save, too.
    :raises UsageError: an unknown option, or a value out of range.
    :raises TypeError: something else than the options, or both.
    """

    options_type: ClassVar[type[Options]] = Options
    state: ClassVar[tuple[str, ...]] = ()
    task_state: ClassVar[tuple[str, ...]] = ()
    options: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Avalanche asks each class anew.
        super().__init_subclass__(**{"supports_distributed": True, **kwargs})

    def __init__(self, options: Options | None = None, **values: Any) -> None:
        super().__init__()
        if options is not None and (values or not isinstance(options, self.options_type)):
            raise TypeError(f"{type(self).__name__} takes one {self.options_type.__name__}, or its values by name.")
        self.options = self.options_type(**values) if options is None else options
