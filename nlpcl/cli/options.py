"""The options that commands share, each declared once: what is run, and where."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from nlpcl.config.arguments import Request
from nlpcl.config.resolve import FIELD_OPTIONS
from nlpcl.config.spec import FIELDS
from nlpcl.options import show_signature

_Assign = Annotated[
    list[str] | None,
    typer.Option("--set", help="name=value: an option of strategy, backbone, benchmark or training; repeatable."),
]
_Presets = Annotated[
    list[Path] | None,
    typer.Option("--preset", help="File of settings that nlpcl tune wrote; repeatable, later ones win."),
]


def asks_for_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a command's parameter `asked: Request` by the options that say what is to be run.

    Each further parameter that is a dataclass is replaced by its fields, whose types declare their options.
    """
    named = {
        name: Annotated[str | None, typer.Option(*field.flags, help=FIELD_OPTIONS[name].help)]
        for name, field in FIELDS.items()
        if field.flags
    }
    shown = [_option(name, hint) for name, hint in {**named, "assign": _Assign, "presets": _Presets}.items()]
    groups: dict[str, Any] = {}
    for p in inspect.signature(command, eval_str=True).parameters.values():
        if is_dataclass(p.annotation) and p.name != "asked":
            groups[p.name] = p.annotation
            hints = get_type_hints(p.annotation, include_extras=True)
            shown += [_option(field.name, hints[field.name], field.default) for field in fields(p.annotation)]
        elif p.name != "asked":
            shown.append(p.replace(kind=p.KEYWORD_ONLY))

    @functools.wraps(command)
    def wrapped(assign: list[str] | None, presets: list[Path] | None, **arguments: Any) -> Any:
        texts = {name: text for name in named if (text := arguments.pop(name)) is not None}
        for name, group in groups.items():
            arguments[name] = group(**{field.name: arguments.pop(field.name) for field in fields(group)})
        return command(Request(texts, tuple(assign or ()), tuple(presets or ())), **arguments)

    show_signature(wrapped, inspect.Signature(shown))
    return wrapped


def _option(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
