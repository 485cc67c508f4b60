"""Options of a strategy, backbone or stream, each declared once.

A method declares one class, and its plugin, its strategy, `--set`, `nlpcl info`, presets and checks read it:

    class EWCOptions(StrategyOptions):
        lamb: Weight = option(5000.0, "weight lambda of the penalty")
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nlpcl.config.files import from_json
from nlpcl.config.spec import FIELDS
from nlpcl.errors import UsageError, suggest
from nlpcl.ranges import Since, in_words

# Fields of the spec, and constructor arguments that nlpcl fills in. They are not offered as options, and no option may
# have their name.
BUILT_IN = {
    *FIELDS,
    *("self", "optimizer", "criterion", "train_mb_size", "train_epochs", "eval_mb_size", "device", "plugins"),
    *("evaluator", "eval_every", "peval_mode", "encoder", "input_shape", "tokenizer", "root"),
}
MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """A named, typed setting."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def since(self) -> Since | None:
        """When the option came, if that was after the first records."""
        return next((mark for mark in typing.get_args(self.annotation) if isinstance(mark, Since)), None)

    def check(self, value: Any) -> Any:
        """`value` as the option's type.

        :raises UsageError: it is not of that type, or out of its range.
        """
        try:
            return TypeAdapter(self.annotation).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"option {self.name} takes {in_words(self.annotation)}, not {value!r}.") from error

    def parse(self, text: str) -> Any:
        """The value that `text`, as typed on a command line, stands for."""
        with suppress(ValueError):  # no JSON, or a text that looks like a number
            return self.check(from_json(text))
        return self.check(text)


def option(default: Any = ..., help: str = "") -> Any:
    """Declare an option in a subclass of `Options`, with its default and what `nlpcl info` says of it.

    :param default: the value of who gives none; without it the option is required.
    """
    return Field(default, description=help)


class Options(BaseModel):
    """The options of one strategy, backbone or stream, as immutable values.

    A field's annotation gives type and range (`nlpcl.ranges`), `option` its default and help. An option that came after
    the first records is marked `Annotated[type, Since(version)]`. A subclass has the options of its base, too, and may
    give one another default or help, but not another type.

    :raises UsageError: an unknown option, or a value of another type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    def __init__(self, **values: Any) -> None:
        super().__init__(**check_options(type(self).__name__.removesuffix("Options"), self.declared(), values))

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a declaration that would be misread.

        :raises ValueError: an option has a reserved name, no help, or another type than in the base.
        """
        for name, field in cls.model_fields.items():
            if name in BUILT_IN:
                raise ValueError(f"{cls.__name__}: no option can be called {name}, which nlpcl itself fills in")
            if not field.description:
                raise ValueError(f"{cls.__name__}: option {name} needs a help: {name}: TYPE = option(DEFAULT, HELP)")
        for base in cls.__bases__:
            if issubclass(base, Options):
                inherited = typing.get_type_hints(base, include_extras=True)
                for name, hint in typing.get_type_hints(cls, include_extras=True).items():
                    if name in base.model_fields and hint != inherited[name]:
                        raise ValueError(f"{cls.__name__}: option {name} has another type in {base.__name__}")

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """Return the options by name, in the order of their declaration."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {
            name: Option(name, hints[name], MISSING if field.is_required() else field.default, field.description or "")
            for name, field in cls.model_fields.items()
        }


def check_constructor(target: Any, options: type[Options]) -> None:
    """Refuse a constructor that names arguments other than those that nlpcl fills in.

    :param options: where options are declared instead.
    :raises ValueError: it does.
    """
    for name, parameter in inspect.signature(target.__init__).parameters.items():
        if name not in BUILT_IN and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(
                f"{target.__name__}: its constructor names {name}; an option is declared once, in {options.__name__}"
            )


def with_options(constructor: inspect.Signature, options: type[Options]) -> inspect.Signature:
    """Return the signature of a constructor with options as keyword arguments in place of its `**kwargs`.

    :param constructor: of a function, or of a method with `self`, which is left out.
    """
    named = [p for p in constructor.parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    own = [
        inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=o.annotation)
        for o in options.declared().values()
        if o.name not in constructor.parameters  # `check_constructor` refuses what stands there, too
    ]
    return inspect.Signature([*named, *own])


def show_signature(target: Any, signature: inspect.Signature) -> None:
    """Let `help()`, `inspect` and typer see a signature in place of the one of a function's or class's code."""
    target.__signature__ = signature


def check_options(owner: str, options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option's value: the given one, checked, or the default.

    :raises UsageError: an unknown option, a value of the wrong type, or an option without any value.
    """
    for name in given:
        if name not in options:
            raise UsageError(f"{owner} has no option {name!r}. {suggest(name, options)}")
    values = {name: option.check(given[name]) if name in given else option.default for name, option in options.items()}
    for name, value in values.items():
        if value is MISSING:
            raise UsageError(f"{owner} needs a value for option {name}: --set {name}=...")
    return values


def stored_options(options: Mapping[str, Option], values: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return the values that a spec of this version stores: not newer options, nor later ones at their default."""
    return {
        name: value
        for name, value in values.items()
        if (mark := options[name].since) is None or (value != options[name].default and mark.version <= version)
    }


def complete_options(entry: Any, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return stored options with the defaults of those that came later and are not stored."""
    later = {name: option.default for name, option in entry.options.declared().items() if option.since is not None}
    return {**later, **(stored or {})}


def assignment(pair: str) -> tuple[str, str]:
    """Name and text of `name=value`.

    :raises UsageError: it is not of that form.
    """
    name, equals, text = pair.partition("=")
    if not equals:
        raise UsageError(f"--set takes name=value, not {pair!r}.")
    return name.strip().replace("-", "_"), text


def parse_options(pairs: Sequence[str], owners: Mapping[str, Mapping[str, Option]]) -> dict[str, dict[str, Any]]:
    """`name=value` texts as options of the first owner that has one of that name.

    :param owners: by name the options of each.
    :return: for every owner what was given.
    :raises UsageError: not of that form, an unknown option, or a value of the wrong type.
    """
    found: dict[str, dict[str, Any]] = {owner: {} for owner in owners}
    for pair in pairs:
        name, text = assignment(pair)
        owner, option = find_option(name, owners)
        found[owner][name] = option.parse(text)
    return found


def find_option(name: str, owners: Mapping[str, Mapping[str, Option]]) -> tuple[str, Option]:
    """The first owner that has an option of that name, and the option.

    :raises UsageError: none has.
    """
    for owner, options in owners.items():
        if name in options:
            return owner, options[name]
    known = suggest(name, [name for options in owners.values() for name in options])
    raise UsageError(f"{', '.join(owners)}: no option {name!r}. {known}")
