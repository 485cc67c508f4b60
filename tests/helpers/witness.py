"""Code that must never run: a crafted checkpoint names it, and what is called is noted."""

from __future__ import annotations

from typing import Any

called: list[str] = []


def function(*args: Any, **kwargs: Any) -> Any:
    """Note the call; give the first argument back, as a hook may."""
    called.append("function")
    return args[0] if args else None


class Called:
    """An object that notes when it is called or given a state."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        called.append("object")

    def set_extra_state(self, state: Any) -> None:
        called.append("set_extra_state")
