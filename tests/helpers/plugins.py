"""Find a method's plugin in a strategy."""

from __future__ import annotations

from typing import Any, TypeVar

P = TypeVar("P")


def plugin_of(strategy: Any, cls: type[P]) -> P:
    """Return the strategy's one plugin of a class."""
    (plugin,) = (plugin for plugin in strategy.plugins if isinstance(plugin, cls))
    return plugin
