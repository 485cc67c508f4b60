"""The base of this package's plugins, and what they may use of a strategy and of an experience."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, get_args, get_origin

from avalanche.benchmarks import CLStream
from avalanche.benchmarks.utils import TaskAwareSupervisedClassificationDataset
from avalanche.core import SupervisedPlugin

from nlpcl.options import Options

if TYPE_CHECKING:
    from avalanche.training.templates import SupervisedTemplate
    from torch import Tensor

    from nlpcl.training.strategy import ContinualStrategy

TaskData: TypeAlias = TaskAwareSupervisedClassificationDataset[Any]
"""Examples with targets and task labels, as Avalanche holds them."""
OptionsT = TypeVar("OptionsT", bound=Options)
Strategy: TypeAlias = "SupervisedTemplate[Experience, Any, Tensor]"
"""A strategy, one of ours or of Avalanche's own, while it trains or is tested: only then there is all of it."""


class Experience(Protocol):
    """A task of a stream that this package made."""

    classes_in_this_experience: list[int]
    task_labels: list[int]
    task_name: str

    @property
    def current_experience(self) -> int:
        """Index of the task in its stream, from 0."""
        ...

    @property
    def origin_stream(self) -> CLStream[Any]: ...
    @property
    def dataset(self) -> TaskData: ...


class Checkpointer(Protocol):
    """Is called at the points where a training can be interrupted, and says where it goes on."""

    joining: bool
    """Whether the next epoch goes on from its middle, so that its first hooks are not called again."""

    def enter(self, strategy: ContinualStrategy) -> int | None:
        """Return the epoch with which to begin a pass over an experience; None if the pass is over."""

    def begin_epoch(self, strategy: ContinualStrategy, epoch: int) -> None:
        """Note that the batches of an epoch are about to be drawn."""

    def stepped(self, strategy: ContinualStrategy) -> None:
        """Save a checkpoint if one is due, after a complete step."""


class Plugin(SupervisedPlugin[Strategy], Generic[OptionsT], supports_distributed=True):
    """A method as a plugin of any Avalanche strategy; hooks are Avalanche's.

    A method names the class of its options, `Plugin[EWCOptions]`, and gets its values as `self.options`. It is made
    with the object or with its values: `EWCPlugin(EWCOptions(lamb=500))` is `EWCPlugin(lamb=500)`.

    It may have two more methods: `parameter_group(strategy) -> dict` gives the optimizer's group of its own parameters,
    which the strategy does not clip, and `kept_bytes() -> dict` by kind the bytes that it keeps outside the model.

    :ivar state: names of the attributes that a checkpoint saves; those of a class and of its bases add up.
    :ivar task_state: names of attributes that live only while a task trains, which checkpoints within a task save, too.
    :raises UsageError: an unknown option, or a value out of range.
    :raises TypeError: something else than the options, or both.
    """

    options_type: ClassVar[Any] = Options
    state: ClassVar[tuple[str, ...]] = ()
    task_state: ClassVar[tuple[str, ...]] = ()
    options: OptionsT

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Avalanche asks each class anew.
        super().__init_subclass__(**{"supports_distributed": True, **kwargs})
        for base in vars(cls).get("__orig_bases__", ()):
            if issubclass(get_origin(base) or object, Plugin):
                (options,) = get_args(base)  # a class, or a variable for subclasses of one
                cls.options_type = getattr(options, "__bound__", options)

    def __init__(self, options: Options | None = None, **values: Any) -> None:
        super().__init__()
        if options is not None and (values or not isinstance(options, self.options_type)):
            raise TypeError(f"{type(self).__name__} takes one {self.options_type.__name__}, or its values by name.")
        self.options = self.options_type(**values) if options is None else options
