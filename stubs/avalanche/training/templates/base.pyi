from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from avalanche.core import BasePlugin
from torch.nn import Module

_Experience = TypeVar("_Experience")

class BaseTemplate(Generic[_Experience]):
    PLUGIN_CLASS: ClassVar[type[BasePlugin[Any]]]
    model: Module
    device: torch.device
    plugins: list[BasePlugin[Any]]
    experience: _Experience  # None between two calls of `train` and `eval`, when no hook is called
    is_training: bool

    def __init__(
        self,
        *,
        model: Module,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin[Any]] | None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def is_eval(self) -> bool: ...
    def _train_exp(self, experience: _Experience, eval_streams: Any, **kwargs: Any) -> None: ...
    def _train_cleanup(self) -> None: ...
    def _eval_cleanup(self) -> None: ...
    def _before_training_exp(self, **kwargs: Any) -> None: ...
    def _after_training(self, **kwargs: Any) -> None: ...
