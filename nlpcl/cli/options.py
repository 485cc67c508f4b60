"""The options that `nlpcl run`, `sweep` and `tune` share: what is to be run, and where."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nlpcl.config.arguments import Request, flag

# By field of the spec what its option says; further names that it goes by.
SPEC_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "benchmark": ("Default: demo.", ("--task",)),
    "strategy": ("Default: ctr.", ("--baseline",)),
    "backbone": ("Default: bert_adapter for text, cnn for images.", ()),
    "scenario": ("til (default), dil or cil.", ()),
    "order": ("Number of a published order, seed:N, or names a,b,c.", ("--idrandom",)),
    "model": (
        "An encoder: minilm (default), a folder or a hub name; for w2v and w2v_as a file of word vectors.",
        ("--bert-model",),
    ),
    "epochs": ("Of each task, or laptop=10,*=30.", ("--num-train-epochs",)),
    "train_batch_size": ("", ()),
    "learning_rate": ("", ()),
    "max_length": ("", ("--max-seq-length",)),
    "seed": ("", ()),
    "data_seed": ("Of the draws of --train-size. Default: --seed.", ()),
    "tasks": ("Only the first so many, or those named a,b,c.", ("--ntasks",)),
    "train_size": ("Training examples per task, at most.", ("--train-data-size",)),
    "eval": ("Test after each task on: seen, full; or final.", ()),
    "padding": ("dynamic or fixed.", ()),
    "precision": ("fp32, tf32, bf16 or fp16.", ()),
}
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", help="name=value, an option of strategy, backbone, benchmark or training; repeatable."),
]
Presets = Annotated[
    list[Path] | None,
    typer.Option("--preset", help="A file of settings that nlpcl tune wrote; repeatable, later ones win."),
]
Out = Annotated[Path, typer.Option("--out", "--output-dir", help="Folder for records.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
EvalBatchSize = Annotated[int, typer.Option("--eval-batch-size", min=1, max=1_000_000)]
CheckpointMinutes = Annotated[
    float, typer.Option(min=0, help="Save a checkpoint within a task every so many minutes; 0: never.")
]

Compile = Annotated[
    bool,
    typer.Option("--compile", help="Run the encoder as code that torch compiles; not with --gradient-checkpointing."),
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Compute activations again in the backward pass: less memory."),
]


def asks_for_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what is to be run, in the place of its parameter `asked: Request`."""
    named = [
        _option(name, Annotated[str | None, typer.Option(flag(name), *more, help=text)])
        for name, (text, more) in SPEC_OPTIONS.items()
    ]
    first = [*named, _option("assign", Assign), _option("presets", Presets)]
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters if p.name != "asked"]

    @functools.wraps(command)
    def wrapped(assign: list[str] | None, presets: list[Path] | None, **given: Any) -> Any:
        fields = {name: given.pop(name) for name in SPEC_OPTIONS}
        texts = {name: text for name, text in fields.items() if text is not None}
        return command(Request(texts, tuple(assign or ()), tuple(presets or ())), **given)

    wrapped.__signature__ = inspect.Signature([*first, *own])  # type: ignore[attr-defined]
    return wrapped


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
