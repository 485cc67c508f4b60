"""What can be named on the command line, and how it is found.

A strategy is a file in `nlpcl/strategies/`, a benchmark a file in `nlpcl/benchmarks/`, a backbone a
class in `nlpcl/models/`; other packages add theirs through the entry-point groups
`nlpcl.strategies`, `nlpcl.benchmarks` and `nlpcl.models`. Looking a name up imports the file of that
name alone; only listing, or a name that no file bears, imports them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from nlpcl.errors import Impossible, UsageError, fold, suggest
from nlpcl.orders import Published

Scenario = Literal["til", "dil", "cil"]
Regime = Literal["continual", "isolated", "joint"]
Modality = Literal["text", "image"]
SCENARIOS: dict[str, str] = {"til": "task-incremental", "dil": "domain-incremental", "cil": "class-incremental"}
DEFAULT_BACKBONES: dict[Modality, str] = {"text": "bert_adapter", "image": "cnn"}


@dataclass(frozen=True)
class StrategyEntry:
    """The facts of a strategy, known before it is built.

    `protocol`, an attribute of the target, says how it is driven: `continual` trains on one experience after another
    and is tested on those seen; `isolated` starts afresh for each and fills the diagonal; `joint` trains once on the
    whole stream and fills the last row. `ddp` says whether it trains in several processes what it trains in one,
    `ddp_reason` why not. `defaults` gives values to options whose class has none, `types` types to those whose class
    has none, or one without a range; `presets` are `(condition, values)` pairs, see `nlpcl.presets`; `aliases` find it,
    too.
    """

    name: str
    target: Any
    title: str
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
    defaults: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)
    presets: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", getattr(self.target, "protocol", "continual"))


@dataclass(frozen=True)
class BenchmarkEntry:
    """The facts of a benchmark: where its data come from and what its labels mean.

    `reason` says why a scenario is missing; `modality` what its examples are; `sizes` are its training,
    validation and test examples in the first published order. `published`, called with `scenario`, `order`, `tasks` and
    the benchmark's options, gives the orders and names that `nlpcl.orders.order_tasks` takes; None: data tell them.
    `own_files`, called with the data root and the complete spec, gives the SHA-256 by name of the files there that
    a run reads and that are no published ones; None means that every file is checked against what was published.
    """

    name: str
    target: Any
    title: str
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
    own_files: Callable[[Path, Any], Mapping[str, str]] | None = None


@dataclass(frozen=True)
class BackboneEntry:
    """The facts of a backbone; `modality` is what it takes.

    `words` is empty where a spec's `model` names an encoder. Where it names a file of word vectors, `words` says what
    is read of a pair of texts: the `second` alone, or `both` as one. Of a `frozen` encoder states are computed once.
    """

    name: str
    target: Any
    title: str
    modality: Modality = "text"
    words: Literal["", "second", "both"] = ""
    frozen: bool = False


class HasName(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def target(self) -> Any: ...


E = TypeVar("E", bound=HasName)
T = TypeVar("T")


class Registry(Generic[E]):
    """The entries of one kind, found by file name or entry point.

    :param kind: what the entries are, for messages ("strategy").
    :param package: the package whose modules hold them; also the entry-point group.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, E] = {}

    def add(self, entry: E) -> None:
        """Register `entry`; a second one of the same name is a programming error."""
        for name in (entry.name, *getattr(entry, "aliases", ())):
            known = self._entries.get(fold(name))
            if known is not None and known.target.__module__ != entry.target.__module__:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {known.target} and {entry.target}")
            self._entries[fold(name)] = entry

    def get(self, name: str) -> E:
        """The entry called `name`, whatever its case and hyphens.

        :raises UsageError: no such name; the nearest ones are offered.
        """
        if fold(name) not in self._entries:  # a look at what is installed takes milliseconds, which a sweep multiplies
            for module, load in self._modules().items():
                if fold(module) == fold(name.partition("/")[0]):
                    load()
        if fold(name) not in self._entries:
            self._load_all()
        if fold(name) not in self._entries:
            aliases = [alias for entry in self.entries() for alias in getattr(entry, "aliases", ())]
            raise UsageError(f"unknown {self.kind} {name!r}. {suggest(name, [*self.names(), *aliases])}")
        return self._entries[fold(name)]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(entry.name for entry in self.entries())

    def entries(self) -> list[E]:
        """All entries, sorted by name."""
        self._load_all()
        return sorted({entry.name: entry for entry in self._entries.values()}.values(), key=lambda entry: entry.name)

    def _modules(self) -> dict[str, Callable[[], Any]]:
        package = importlib.import_module(self.package)
        found: dict[str, Callable[[], Any]] = {}
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                found[module.name] = partial(importlib.import_module, f"{self.package}.{module.name}")
        for point in entry_points(group=self.package):
            found[point.name] = point.load
        return found

    def _load_all(self) -> None:
        for load in self._modules().values():
            load()


strategies: Registry[StrategyEntry] = Registry("strategy", "nlpcl.strategies")
benchmarks: Registry[BenchmarkEntry] = Registry("benchmark", "nlpcl.benchmarks")
backbones: Registry[BackboneEntry] = Registry("backbone", "nlpcl.models")


def register_strategy(name: str, **facts: Any) -> Callable[[T], T]:
    """Class decorator: make a strategy known by `name`; `facts` are the fields of `StrategyEntry`."""

    def decorate(target: T) -> T:
        strategies.add(StrategyEntry(name, target, **facts))
        return target

    return decorate


def register_benchmark(name: str, **facts: Any) -> Callable[[T], T]:
    """Function decorator: make a benchmark known by `name`; `facts` as in `BenchmarkEntry`."""

    def decorate(target: T) -> T:
        benchmarks.add(BenchmarkEntry(name, target, **facts))
        return target

    return decorate


def register_backbone(name: str, **facts: Any) -> Callable[[T], T]:
    """Class decorator: make a backbone known by `name`; `facts` as in `BackboneEntry`."""

    def decorate(target: T) -> T:
        backbones.add(BackboneEntry(name, target, **facts))
        return target

    return decorate


def check_combination(
    strategy: StrategyEntry, benchmark: BenchmarkEntry, backbone: BackboneEntry, scenario: str
) -> None:
    """Refuse at once what cannot work.

    :raises Impossible: with the reason and what does work.
    :raises UsageError: there is no such scenario.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"unknown scenario {scenario!r}. {suggest(scenario, SCENARIOS)}")
    # For a strategy class-incremental learning is domain-incremental learning with a larger head.
    of_strategy = strategy.scenarios + (("cil",) if "dil" in strategy.scenarios else ())
    for what, allowed in ((strategy, of_strategy), (benchmark, benchmark.scenarios)):
        if scenario not in allowed:
            works = " and ".join(f"--scenario {s} ({SCENARIOS[s]})" for s in allowed)
            because = f": {what.reason}" if what.reason else ""
            raise Impossible(f"{what.name} does not run {SCENARIOS[scenario]}{because}. It runs with {works}.")
    if backbone.modality != benchmark.modality:
        fitting = [entry.name for entry in backbones.entries() if entry.modality == benchmark.modality]
        usable = [name for name in fitting if strategy.backbones is None or name in strategy.backbones]
        offer = f"use --backbone {' or '.join(usable)}" if usable else f"{strategy.name} has no backbone for it"
        raise Impossible(
            f"{benchmark.name} holds {benchmark.modality}s and backbone {backbone.name} takes {backbone.modality}s: "
            f"{offer}."
        )
    if strategy.backbones is not None and backbone.name not in strategy.backbones:
        fitting = [name for name in strategy.backbones if backbones.get(name).modality == benchmark.modality]
        if not fitting:
            raise Impossible(
                f"{strategy.name} does not run on {benchmark.modality}s: it needs backbone "
                f"{' or '.join(strategy.backbones)}."
            )
        raise Impossible(
            f"{strategy.name} does not run on backbone {backbone.name}: it needs {' or '.join(fitting)} (--backbone)."
        )


def check_processes(strategy: StrategyEntry, processes: int) -> None:
    """Refuse a number of processes that a strategy cannot train in together.

    :raises UsageError: with the reason.
    """
    if processes > 1 and not strategy.ddp:
        reason = strategy.ddp_reason or "it does not say that it trains there what it trains in one"
        raise UsageError(f"{strategy.name} does not run in {processes} processes: {reason}. Start it without torchrun.")


def default_backbone(benchmark: str) -> str:
    """Name of the backbone that a benchmark gets when none is named.

    :raises UsageError: no such benchmark.
    """
    return DEFAULT_BACKBONES[benchmarks.get(benchmark).modality]
