"""Choose settings with Optuna, on validation data alone."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from nlpcl.config.arguments import Request
from nlpcl.config.encoders import MINILM, encoder_fingerprint
from nlpcl.config.presets import PresetFile
from nlpcl.config.spec import OWNERS, CompleteSpec
from nlpcl.errors import UsageError, is_out_of_memory
from nlpcl.options import find_option
from nlpcl.records.metrics import average
from nlpcl.runs.fit import fit
from nlpcl.runs.identity import identified
from nlpcl.runs.lock import release
from nlpcl.runs.run import setup
from nlpcl.sweeps.grid import values_of
from nlpcl.sweeps.study import Study
from nlpcl.training.device import choose_device, tf32

On = Literal["first-task", "stream"]
_RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>.+?)(?P<log>:log)?")
SPREAD = 10.0
"""Where nothing is named, the learning rate is searched from its preset divided by this to its preset times this."""


@dataclass(frozen=True)
class Axis:
    """A setting to search: whole or real numbers from low to high, or one of some texts.

    :param log: whether to search the logarithm evenly.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """The extreme values as texts; if they are valid, so is all between."""
        return self.choices or (repr(self.low), repr(self.high))

    def draw(self, trial: Any) -> str:
        """Return the text of the value that a trial of Optuna is to try."""
        if self.choices:
            return str(trial.suggest_categorical(self.name, self.choices))
        suggest = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return repr(suggest(self.name, self.low, self.high, log=self.log))


@dataclass(frozen=True)
class Search:
    """A search over settings of a run.

    :param fixed: the run without the settings to search.
    :param axes: the settings to search.
    :param on: `first-task` for accuracy on the first task once it is trained, `stream` for average accuracy at the end.
    """

    fixed: Request
    axes: tuple[Axis, ...]
    on: On

    @classmethod
    def asked(cls, request: Request, on: On) -> Search:
        """Return the search of a command line: of `--set name=low..high`, with or without `:log`, and `--set name=a,b`.

        Without any, the learning rate is searched around its preset. An option's type does not say what to search.

        :raises UsageError: a run cannot be asked for so, a range is none, or the learning rate is fixed.
        """
        owners = request.owners()
        axes, fixed = [], []
        for name, text in request.assigned().items():
            found, choices = _RANGE.fullmatch(text), values_of(name, text)
            if found is not None:
                option = find_option(name, owners)[1]
                axes.append(_between(name, option.parse(found["low"]), option.parse(found["high"]), bool(found["log"])))
            elif len(choices) > 1:
                axes.append(Axis(name, choices=tuple(choices)))
            else:
                fixed.append(f"{name}={text}")
        rest = replace(request, assign=tuple(fixed))
        if not axes:
            if "learning_rate" in {*request.fields, *request.assigned()}:
                raise UsageError("nothing is left to search: name it, as --set learning_rate=1e-5..1e-3:log.")
            usual = rest.spec().learning_rate
            axes.append(Axis("learning_rate", usual / SPREAD, usual * SPREAD, log=True))
        search = cls(rest, tuple(axes), on)
        for i, axis in enumerate(axes):  # so that mistakes show before anything runs
            for text in axis.ends:
                search.request([text if j == i else other.ends[0] for j, other in enumerate(axes)]).spec()
        return search

    def request(self, texts: Sequence[str]) -> Request:
        """Return the run with these values of the searched settings."""
        return replace(self.fixed, assign=(*self.fixed.assign, *self._pairs(texts)))

    def name(self, data_root: str | None) -> str:
        """Return the name of the study: the same for the same question about the same data, else another."""
        spec = identified(self.request([axis.ends[0] for axis in self.axes]).spec(), data_root)
        of_hub = spec.model not in (None, MINILM) and spec.model_sha256 is None
        encoder = [encoder_fingerprint(str(spec.model))] if of_hub else []
        content = [spec.id, *encoder, [vars(axis) for axis in self.axes], self.on]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{spec.strategy}-{spec.benchmark}-{digest}"

    def usual(self) -> dict[str, Any]:
        """Return the defaults, where they lie in the search space. They are tried first."""
        try:
            spec = self.fixed.spec()
        except UsageError:  # a searched option has no default
            return {}
        owners = self.fixed.owners()
        usual: dict[str, Any] = {}
        for axis in self.axes:
            holder, option = self.fixed.field_of(axis.name), find_option(axis.name, owners)[1]
            value = getattr(spec, axis.name) if holder is None else getattr(spec, holder)[axis.name]
            same = [text for text in axis.choices if option.parse(text) == value]
            if same:
                usual[axis.name] = same[0]
            elif not axis.choices and isinstance(value, (int, float)) and axis.low <= value <= axis.high:
                usual[axis.name] = value
        return usual

    def preset(self, texts: Sequence[str], source: str) -> PresetFile:
        """Return these values as a preset for runs of the same method on the same benchmark."""
        spec = self.request(texts).spec()
        searched = replace(self.fixed, assign=self._pairs(texts)).content()
        values = {name: value for name, value in searched.items() if name not in self.fixed.fields}
        name_or_digest = "model" if spec.model_sha256 is None else "model_sha256"  # wherever the encoder lies then
        facts = {name: getattr(spec, name) for name in ("scenario", *OWNERS.values(), name_or_digest)}
        when = {name: glob.escape(value) for name, value in facts.items() if value is not None}
        return PresetFile(when=when, values=values, source=source)

    def _pairs(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{axis.name}={text}" for axis, text in zip(self.axes, texts, strict=True))


def _between(name: str, low: Any, high: Any, log: bool) -> Axis:
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in (low, high)):
        raise UsageError(f"{name} is no number, so it has no range: give its values, as --set {name}=a,b.")
    if not low < high or (log and low <= 0):
        needs = "low < high, and low > 0 with :log"
        raise UsageError(f"a range takes {needs}, as --set {name}=0.1..10:log, not {low}..{high}.")
    return Axis(name, low, high, log)


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    :param number: number of trials that the study then has, from 1.
    :param texts: values of the searched settings.
    :param accuracy: in [0, 1], on validation data; None means that the run failed, and `error` says why.
    """

    number: int
    texts: tuple[str, ...]
    accuracy: float | None
    error: str | None = None


@dataclass(frozen=True)
class Best:
    """The best setting of a study: its texts, its accuracy in [0, 1], and how many trials had one."""

    texts: tuple[str, ...]
    accuracy: float
    trials: int


def tune(
    search: Search,
    file: Path,
    trials: int,
    on_trial_end: Callable[[Trial], None],
    *,
    data_root: str | None = None,
    **where: Any,
) -> Best:
    """Search until the study has this many trials, including those that failed.

    :param file: an SQLite file; a study of the same search over the same data continues.
    :param on_trial_end: called after each trial.
    :param data_root: folder with the data; None means that the package downloads what it needs.
    :param where: `device` and `eval_batch_size`.
    :raises UsageError: Optuna is not installed, the file holds no studies, no run can be prepared, every trial failed,
        or data or encoder change during the search.
    """
    name = search.name(data_root)
    seed = search.request([axis.ends[0] for axis in search.axes]).spec().seed
    study = Study(file, name, search.axes, search.usual(), seed)
    reason: str | None = None
    while True:
        if search.name(data_root) != name:
            raise UsageError("the data or the encoder changed during the search: start it again.")
        drawn = study.draw(trials)
        if drawn is None:
            break
        try:
            accuracy = score(search.request(drawn.texts).spec(), search.on, data_root=data_root, **where)
        except (UsageError, RuntimeError, MemoryError) as error:  # say, a loss that is not finite
            if not isinstance(error, UsageError) and not is_out_of_memory(error):
                raise
            if isinstance(error, Unprepared) and not study.complete():
                raise  # say, an order that does not exist: other values of the settings do not help
            reason = str(error)
            study.tell(drawn, None)
            on_trial_end(Trial(drawn.number, drawn.texts, None, reason))
        else:
            study.tell(drawn, accuracy)
            on_trial_end(Trial(drawn.number, drawn.texts, accuracy))
        finally:
            release(drawn.lock)
    complete = study.complete()
    if not complete:
        raise UsageError(
            "every trial failed" + (f", the last because: {reason}" if reason else ": name another --study.")
        )
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    return Best(tuple(best.user_attrs["texts"]), best.value, len(complete))


class Unprepared(UsageError):
    """A run that fails before it trains."""


def score(
    spec: CompleteSpec, on: On, *, data_root: str | None = None, device: str = "auto", eval_batch_size: int = 128
) -> float:
    """Accuracy in [0, 1] on the validation data of the first task once it is trained, or, in the end, of all.

    The strategy sees streams of training and validation data alone; a frozen encoder computes no states of test data.

    :raises Unprepared: the spec cannot be run.
    :raises UsageError: its loss is not finite.
    """
    n = 1 if on == "first-task" else None
    try:
        benchmark, strategy = setup(
            spec,
            data_root=data_root,
            device=choose_device(device),
            eval_batch_size=eval_batch_size,
            encoded_splits=("train", "valid"),
            encoded_tasks=n,
        )
    except UsageError as error:
        raise Unprepared(str(error)) from error
    seen: Any = SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:n], valid_stream=list(benchmark.valid_stream)[:n]
    )
    epochs = [spec.epochs_for(name) for name in benchmark.task_names[:n]]
    with tf32(spec.precision == "tf32"):
        found = average(fit(strategy, seen, eval="final", stream="valid", epochs=epochs).accuracy)
    assert found is not None
    return found
