"""The options that `nlpcl run`, `sweep` and `tune` share: what is run, and where."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
Out = Annotated[Path, typer.Option("--out", "--output-dir", help="Folder for records.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
EvalBatchSize = Annotated[
    int, typer.Option("--eval-batch-size", min=1, max=1_000_000, help="Examples in a batch at test.")
]
CheckpointMinutes = Annotated[
    float, typer.Option(min=0, help="Minutes between checkpoints within a task; 0 means none.")
]

Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the encoder with torch.compile; not with --gradient-checkpointing."),
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Save memory: compute activations again in the backward pass."),
]


def asks_for_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a command's parameter `asked: Request` by the options that say what is to be run."""
    flagged = {name: field.flags for name, field in FIELDS.items() if field.flags}
    named = [
        _option(name, Annotated[str | None, typer.Option(*flags, help=FIELD_OPTIONS[name].help)])
        for name, flags in flagged.items()
    ]
    first = [*named, _option("assign", _Assign), _option("presets", _Presets)]
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    rest = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters if p.name != "asked"]

    @functools.wraps(command)
    def wrapped(assign: list[str] | None, presets: list[Path] | None, **arguments: Any) -> Any:
        texts = {name: text for name in flagged if (text := arguments.pop(name)) is not None}
        return command(Request(texts, tuple(assign or ()), tuple(presets or ())), **arguments)

    show_signature(wrapped, inspect.Signature([*first, *rest]))
    return wrapped


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
