"""Strategies that are one plugin."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from nlpcl.models.base import continual_model
from nlpcl.training.plugin import Plugin
from nlpcl.training.strategy import ContinualStrategy


class PluginStrategy(ContinualStrategy):
    """A strategy that is one plugin, whose class is `plugin_type`; it has the plugin's options, if not its own."""

    plugin_type: ClassVar[Any] = Plugin

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "plugin_type" in vars(cls):
            cls.options_type = vars(cls).get("options_type", cls.plugin_type.options_type)
        super().__init_subclass__(**kwargs)

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> Any:
        return self.plugin_type(self.options)


class ShapingStrategy(PluginStrategy):
    """A strategy whose plugin shapes the layers of a `ContinualModel`, and so takes the model, too."""

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> Any:
        return self.plugin_type(continual_model(model, type(self).__name__), self.options)
