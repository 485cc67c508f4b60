"""What can be named on the command line, and how it is found.

A strategy is a file in `nlpcl/strategies/`, a benchmark a file in `nlpcl/benchmarks/`, a backbone a
class in `nlpcl/models/`; other packages add theirs through the entry-point groups
`nlpcl.strategies`, `nlpcl.benchmarks` and `nlpcl.models`. Looking a name up imports the file of that
name alone; a name that no file bears imports nlpcl's own files and then plugins, and listing imports all.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Concatenate, Generic, Literal, NamedTuple, ParamSpec, TypeVar

from nlpcl.config.orders import Published
from nlpcl.config.spec import SCENARIOS, Scenario
from nlpcl.errors import Impossible, UsageError, UsageErrors, check_known, fold, printable, suggest
from nlpcl.options import Options, check_constructor, show_signature

log = logging.getLogger(__name__)

Regime = Literal["continual", "isolated", "joint"]
Modality = Literal["text", "image"]
DEFAULT_BACKBONES: dict[Modality, str] = {"text": "bert_adapter", "image": "cnn"}
PresetTable = tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]
LONGEST = 400
"""Characters of a sentence on what could not be loaded."""


@dataclass(frozen=True)
class Entry:
    """A name, what it stands for, and a line on it.

    `options` is the class of its options, by default that which the target names; `aliases` find the entry, too.

    :raises ValueError: the target's constructor names options, too.
    """

    name: str
    target: Any
    _: KW_ONLY
    title: str
    aliases: tuple[str, ...] = ()
    options: type[Options] = Options

    def __post_init__(self) -> None:
        if self.options is Options:
            object.__setattr__(self, "options", getattr(self.target, "options_type", Options))
            check_constructor(self.target, self.options)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry(Entry):
    """The facts of a strategy, known before it is built.

    `protocol`, an attribute of the target, says how it is driven: `continual` trains on one experience after another
    and is tested on those seen; `isolated` starts afresh for each and fills the diagonal; `joint` trains once on the
    whole stream and fills the last row. `ddp` says whether it trains in several processes what it trains in one,
    `ddp_reason` why not. `presets` are `(condition, values)` pairs, see `nlpcl.config.presets`.
    """

    paper: str = ""
    url: str = ""
    scenarios: tuple[Scenario, ...] = ("til", "dil")
    backbones: tuple[str, ...] | None = None
    protocol: Regime = field(init=False, default="continual")
    replay: bool = False
    ddp: bool = False
    ddp_reason: str = ""
    engine: bool = True
    reason: str = ""
    presets: PresetTable = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "protocol", getattr(self.target, "protocol", "continual"))


class KnownTask(NamedTuple):
    """What is known of a task of a stream before its data are read; None means that only the data tell.

    :ivar labels: its labels, in their order.
    :ivar sizes: its numbers of training, validation and test examples in the published data, without `train_size`.
    """

    labels: tuple[str, ...] | None = None
    sizes: tuple[int, int, int] | None = None


class Known(NamedTuple):
    """What is known of a stream's data before they are read.

    :ivar tasks: in the order of the names that were asked for.
    :ivar files: SHA-256 by name of the published files that are read, None where nobody stated it; None instead of
        all means that there are no published files, so that the data are always the user's own.
    """

    tasks: Sequence[KnownTask]
    files: Mapping[str, str | None] | None


@dataclass(frozen=True, kw_only=True)
class BenchmarkEntry(Entry):
    """The facts of a benchmark: where its data come from and what its labels mean.

    The first of `scenarios` is the default, and `reason` says why one is missing. `modality` is what its examples are.
    `sizes` are its training, validation and test examples in the first published order. `published`, called with
    `scenario`, `order`, `tasks` and the benchmark's options, gives the orders and names that
    `nlpcl.config.orders.order_tasks` takes; None means that the data tell them.
    `known`, called with names of tasks, `scenario`, `order`, `tasks` and the benchmark's options, says what is known of
    the data; None means nothing.
    `own_files`, called with the data root and the complete spec, gives the SHA-256 by name of the files there that
    a run reads and that are no published ones; None means that every file is checked against what was published.
    """

    source: str
    licence: str
    citation: str
    language: str = "en"
    labels: tuple[str, ...] = ()
    scenarios: tuple[Scenario, ...] = ("til", "dil")
    reason: str = ""
    orders: int = 1
    sizes: tuple[int, int, int] | None = None
    modality: Modality = "text"
    published: Callable[..., Published] | None = None
    known: Callable[..., Known] | None = None
    own_files: Callable[[Path, Any], Mapping[str, str]] | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneEntry(Entry):
    """The facts of a backbone; `modality` is what it takes.

    `words` is empty where a spec's `model` names an encoder. Where it names a file of word vectors, `words` says what
    is read of a pair of texts: the `second` alone, or `both` as one. Of a `frozen` encoder states are computed once.
    """

    modality: Modality = "text"
    words: Literal["", "second", "both"] = ""
    frozen: bool = False


E = TypeVar("E", bound=Entry)
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Source:
    """A file of the package, or an entry point of another distribution, that registers entries when it is loaded.

    :param name: the file's, or the entry point's.
    :param title: what messages call it.
    :param load: imports it.
    :param module: the module that an entry point names; empty for a file of the package.
    """

    name: str
    title: str
    load: Callable[[], Any] = field(compare=False)
    module: str = ""


class Registry(Generic[E]):
    """The entries of one kind, found by file name or entry point.

    A source that cannot be loaded stops nothing else: `faults` says why, a lookup that finds nothing repeats it, and
    what lists all entries logs it once.

    :param kind: what the entries are, for messages ("strategy").
    :param package: the package whose modules hold them; also the entry-point group.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, E] = {}
        self._faults: dict[Source, BaseException] = {}
        self._unsaid: list[str] = []

    def add(self, entry: E) -> None:
        """Register `entry`; a second one of the same name is a programming error."""
        names = (entry.name, *entry.aliases)
        for name in names:
            known = self._entries.get(fold(name))
            if known is not None and _definition(known.target) != _definition(entry.target):
                both = " and ".join(".".join(_definition(target)) for target in (known.target, entry.target))
                raise ValueError(f"{self.kind} {name!r} is registered twice: {both}")
        self._entries |= {fold(name): entry for name in names}

    @contextmanager
    def replacing(self, *entries: E) -> Iterator[None]:
        """Put `entries` in the place of those of their names. At the end only what was registered before is known."""
        self.entries()  # a module that is first imported within would not be imported again
        known = dict(self._entries)
        self._entries |= {fold(entry.name): entry for entry in entries}
        try:
            yield
        finally:
            self._entries = known

    def get(self, name: str) -> E:
        """The entry called `name`, whatever its case and hyphens.

        :raises UsageError: no such name, with the nearest ones and what could not be loaded; or its own source is that.
        """
        key, stem = fold(name), fold(name.partition("/")[0])
        # All of nlpcl's own before any plugin: where both register a name, the plugin is at fault. And one step at a
        # time: a look at what is installed takes milliseconds, which a sweep multiplies.
        for find in (self._files, self._points):
            for stems in ({stem}, None):
                if key not in self._entries:
                    self._load(source for source in find() if stems is None or fold(source.name) in stems)
        if key not in self._entries:
            self._unsaid.clear()
            for source, error in self._faults.items():
                if fold(source.name) == stem:
                    raise UsageError(f"unknown {self.kind} {name!r}: {_why(source, error)}") from error
            known = {name for entry in self._entries.values() for name in (entry.name, *entry.aliases)}
            raise UsageErrors(f"unknown {self.kind} {name!r}. {suggest(name, known)}", self.faults)
        return self._entries[key]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(entry.name for entry in self.entries())

    def entries(self) -> list[E]:
        """All entries, sorted by name. What cannot be loaded is left out, and logged the first time."""
        self._load(self._files())
        self._load(self._points())
        while self._unsaid:
            log.warning(self._unsaid.pop(0))
        return sorted({entry.name: entry for entry in self._entries.values()}.values(), key=lambda entry: entry.name)

    @property
    def faults(self) -> list[str]:
        """A sentence on each file or plugin that could not be loaded so far."""
        return [_why(source, error) for source, error in self._faults.items()]

    def _files(self) -> list[Source]:
        found = []
        package = importlib.import_module(self.package)
        for outer in pkgutil.iter_modules(package.__path__):
            names = [outer.name]
            if outer.ispkg:
                inner = pkgutil.iter_modules([str(Path(path) / outer.name) for path in package.__path__])
                names += [f"{outer.name}.{module.name}" for module in inner]
            for name in names:
                stem, module = name.rpartition(".")[2], f"{self.package}.{name}"
                if not name.startswith("_") and not stem.startswith("_"):
                    found.append(Source(stem, module, partial(importlib.import_module, module)))
        return found

    def _points(self) -> list[Source]:
        return [
            Source(p.name, f"{self.kind} plugin {p.name} ({p.value})", p.load, p.value.partition(":")[0].strip())
            for p in entry_points(group=self.package)
        ]

    def _load(self, sources: Iterable[Source]) -> None:
        for source in sources:
            if source in self._faults:
                continue
            before = set(self._entries)
            try:
                source.load()
                if source.module and not self._registered(source.module, before):
                    raise LookupError(f"it registers no {self.kind}")
            except (Exception, SystemExit) as error:
                # A plugin may raise anything, and must not stop a run that does not use it. An interrupt passes.
                self._faults[source] = error
                self._unsaid.append(_why(source, error))
                for key in set(self._entries) - before:
                    if self._entries[key].target.__module__ not in sys.modules:  # Python has taken it back
                        del self._entries[key]

    def _registered(self, module: str, before: set[str]) -> bool:
        """Return whether a plugin has entries: its own, or earlier ones of its package."""
        top = module.partition(".")[0]
        targets = (entry.target for entry in self._entries.values())
        return set(self._entries) > before or any(t.__module__.partition(".")[0] == top for t in targets)


def _definition(target: Any) -> tuple[str, str]:
    """Module and name: a class that is defined once more, as in a notebook, takes the place of the first."""
    return target.__module__, getattr(target, "__qualname__", repr(target))


def _why(source: Source, error: BaseException) -> str:
    text = printable(f"{source.title} could not be loaded: {type(error).__name__}: {error}")[:LONGEST].rstrip(" .")
    return f"{text}."


strategies: Registry[StrategyEntry] = Registry("strategy", "nlpcl.strategies")
benchmarks: Registry[BenchmarkEntry] = Registry("benchmark", "nlpcl.benchmarks")
backbones: Registry[BackboneEntry] = Registry("backbone", "nlpcl.models")


def _decorator(
    registry: Registry[E], make: Callable[Concatenate[str, Any, P], E]
) -> Callable[Concatenate[str, P], Callable[[T], T]]:
    """Return the decorator that registers a class or function by name; its arguments are the facts of the entry."""

    def register(name: str, *args: P.args, **facts: P.kwargs) -> Callable[[T], T]:
        def decorate(target: T) -> T:
            registry.add(make(name, target, *args, **facts))
            return target

        return decorate

    parameters = [p for p in inspect.signature(make).parameters.values() if p.name != "target"]
    show_signature(register, inspect.Signature(parameters))
    return register


register_strategy = _decorator(strategies, StrategyEntry)
register_benchmark = _decorator(benchmarks, BenchmarkEntry)
register_backbone = _decorator(backbones, BackboneEntry)


def check_scenario(entry: StrategyEntry | BenchmarkEntry, scenario: str) -> None:
    """Refuse a scenario that a strategy or a benchmark does not run.

    :raises Impossible: with the reason and what does work.
    :raises UsageError: there is no such scenario.
    """
    check_known([scenario], SCENARIOS, "unknown scenario")
    allowed = entry.scenarios
    if isinstance(entry, StrategyEntry) and "dil" in allowed:
        allowed += ("cil",)  # for a strategy that is domain-incremental learning with a larger head
    if scenario not in allowed:
        works = " and ".join(f"--scenario {s} ({SCENARIOS[s]})" for s in allowed)
        because = f": {entry.reason}" if entry.reason else ""
        raise Impossible(f"{entry.name} does not run {SCENARIOS[scenario]}{because}. It runs with {works}.")


def check_combination(
    strategy: StrategyEntry, benchmark: BenchmarkEntry, backbone: BackboneEntry, scenario: str
) -> None:
    """Refuse at once what cannot work.

    :raises Impossible: with the reason and what does work.
    :raises UsageError: there is no such scenario.
    """
    check_scenario(strategy, scenario)
    check_scenario(benchmark, scenario)
    named = strategy.backbones
    if backbone.modality != benchmark.modality or (named is not None and backbone.name not in named):
        fitting = [entry.name for entry in backbones.entries() if entry.modality == benchmark.modality]
        usable = [name for name in fitting if named is None or name in named]
        offer = f"use --backbone {' or '.join(usable)}" if usable else f"it needs backbone {' or '.join(named or ())}"
        raise Impossible(
            f"{strategy.name} with backbone {backbone.name} does not run on {benchmark.name}, which holds "
            f"{benchmark.modality}s: {offer}."
        )


def check_processes(strategy: StrategyEntry, processes: int) -> None:
    """Refuse a number of processes that a strategy cannot train in together.

    :raises UsageError: with the reason.
    """
    if processes > 1 and not strategy.ddp:
        reason = strategy.ddp_reason or "it does not say that it trains there what it trains in one"
        raise UsageError(f"{strategy.name} does not run in {processes} processes: {reason}. Start it without torchrun.")
