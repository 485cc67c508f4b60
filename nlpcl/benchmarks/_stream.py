"""Make a stream of facts about data and one function that loads tasks.

`text_stream` and `image_stream` register such a function and return what users call, a `Stream`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nlpcl.benchmarks._base import Benchmark, check_whole, is_whole
from nlpcl.benchmarks._files.download import data_bytes, data_root, read_file
from nlpcl.benchmarks._files.published import published_hashes
from nlpcl.config.orders import Order, order_tasks
from nlpcl.errors import UsageError
from nlpcl.options import Options, show_signature, with_options
from nlpcl.registry import BenchmarkEntry, benchmarks, check_scenario

_OptionsT = TypeVar("_OptionsT", bound=Options)
_OF_TEXT = ("tokenizer", "max_length")


class Stream(Protocol):
    """A function that returns a benchmark, as `ASC("til", 0, tokenizer="minilm")`."""

    def __call__(
        self,
        scenario: str = "til",
        order: Order = 0,
        *,
        tokenizer: Any = "minilm",
        max_length: int = 128,
        tasks: int | Sequence[str] | None = None,
        train_size: int | None = None,
        seed: int = 0,
        root: str | Path | None = None,
        **options: Any,
    ) -> Benchmark:
        """Return the benchmark.

        :param scenario: `til`: a head per task; `dil`: one head, where labels share a meaning; `cil`: one head for the
            labels of all tasks.
        :param order: number of a published order, `seed:N` for a random one, or the names of the tasks.
        :param tokenizer: of text streams: an encoder's name or folder, a tokenizer, or `Words`.
        :param max_length: of text streams: tokens that an example is padded or cut to.
        :param tasks: only the first so many tasks of the order, or those with these names; None means all.
        :param train_size: at most so many training examples per task, drawn with `seed`; None means all.
        :param seed: seed of that draw, and of validation data where they are drawn.
        :param root: folder with the data; None means the one that NLPCL_DATA names, or else a download.
        :raises UsageError: the stream has no such scenario, order or task, or its data are missing, altered or out of
            reach.
        """


@dataclass
class StreamRequest(Generic[_OptionsT]):
    """The arguments of a call of a stream, and what its function notes while it loads the tasks.

    :param name: the stream's name.
    :param options: its own options; the other arguments are those of `Stream`.
    :param task_names: names of the requested tasks; empty where only the data tell which tasks there are.
    :param labels: the label set of the shared head; None means the labels of all tasks.
    :param files: SHA-256 of each file that was read, by path.
    :param notes: sentences on what may spoil a result.
    :raises UsageError: an argument is of another type, or too small.
    """

    name: str
    options: _OptionsT
    scenario: str
    order: Order
    tasks: int | Sequence[str] | None
    train_size: int | None
    seed: int
    root: str | Path | None
    task_names: list[str] = field(default_factory=list)
    labels: tuple[str, ...] | None = None
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, 0)
        if self.train_size is not None:
            check_whole("train_size", self.train_size, 1)
        check_choice("order", self.order)
        if self.tasks is not None:
            check_choice("tasks", self.tasks)

    def choose(self, orders: Sequence[Sequence[str]], known: Sequence[str] | None = None) -> list[str]:
        """Return the names of the requested tasks, in order, of a stream with these published orders."""
        return order_tasks(orders, self.order, self.tasks, known)

    def folder(self) -> Path | None:
        """Return the data root; None means download."""
        return data_root(self.root)

    def read(self, path: str) -> bytes:
        """Return the content of a file under the data root, or what `path.gz` holds, and note its SHA-256.

        :raises UsageError: neither is there, or the latter is damaged.
        """
        content = read_file((self.folder() or Path()) / path)
        self.files[path] = hashlib.sha256(content).hexdigest()
        return content

    def fetch(self, folder: str, path: str, source: str, *, download: bool = False) -> bytes:
        """Return the content of a published file, under the data root or downloaded, and note its SHA-256.

        :param folder: the stream's folder under a data root, and the name of its list of hashes.
        :param path: the file's path in it, and at its source.
        :param download: whether to download it though there is a data root.
        :raises UsageError: it is missing, differs from the published file, or cannot be downloaded.
        """
        self.files[f"{folder}/{path}"] = digest = published_hashes(folder)[path]
        return data_bytes(folder, path, digest, f"{source}/{path}", None if download else self.folder())


def check_choice(name: str, value: Any) -> None:
    """Refuse a value that is neither a whole number nor a list of names.

    :raises UsageError: naming the argument.
    """
    names = isinstance(value, Sequence) and all(isinstance(task, str) for task in value)
    if not is_whole(value) and not names:
        raise UsageError(f"{name} takes a whole number or names of tasks, not {value!r}.")


def register_stream(
    build: Callable[..., Benchmark],
    name: str,
    *,
    max_length: int = 128,
    options: type[Options] = Options,
    **facts: Any,
) -> Callable[[Callable[[StreamRequest[Any]], Sequence[Any]]], Stream]:
    """Return a decorator that makes a stream of a function that loads tasks, and registers it.

    :param build: makes the benchmark of the tasks, which the function returns in their order.
    :param name: of the stream on the command line.
    :param max_length: default of that argument.
    :param options: the class of its own options.
    :param facts: further fields of `BenchmarkEntry`.
    """

    def decorate(load: Callable[[StreamRequest[Any]], Sequence[Any]]) -> Stream:
        def stream(*args: Any, **kwargs: Any) -> Benchmark:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
            own_options = {option: arguments.pop(option) for option in options.model_fields}
            text = {argument: arguments.pop(argument) for argument in _OF_TEXT if argument in arguments}
            request = StreamRequest(name=name, options=options(**own_options), labels=entry.labels or None, **arguments)
            check_scenario(entry, request.scenario)
            if entry.published is not None:
                shared = {"scenario": request.scenario, "order": request.order, "tasks": request.tasks}
                request.task_names = request.choose(*entry.published(**shared, **own_options))
            return build(
                load(request),
                name=name,
                scenario=request.scenario,
                labels=request.labels,
                files=request.files,
                notes=request.notes,
                **text,
            )

        entry = BenchmarkEntry(name, stream, options=options, **facts)
        signature = _signature(entry, options, max_length)
        functools.update_wrapper(stream, load)
        del vars(stream)["__wrapped__"]  # or tools would show its signature
        show_signature(stream, signature)
        stream.__doc__ = _documentation(load, options)
        benchmarks.add(entry)
        return stream

    return decorate


def _signature(entry: BenchmarkEntry, options: type[Options], max_length: int) -> inspect.Signature:
    """Return the signature of `Stream` with a stream's own options and defaults."""
    defaults = {"scenario": entry.scenarios[0], "max_length": max_length}
    signature = with_options(inspect.signature(Stream.__call__), options)
    parameters = [
        parameter.replace(default=defaults.get(name, parameter.default))
        for name, parameter in signature.parameters.items()
        if entry.modality == "text" or name not in _OF_TEXT
    ]
    return signature.replace(parameters=parameters, return_annotation=Benchmark)


def _documentation(load: Callable[..., Any], options: type[Options]) -> str:
    """Return the docstring of a stream's function, followed by that of the arguments."""
    shared = (inspect.getdoc(Stream.__call__) or "").partition("\n\n")[2]
    own = [f":param {option.name}: {option.help}" for option in options.declared().values()]
    return "\n".join([inspect.getdoc(load) or "", "", *own, shared])
