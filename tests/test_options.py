"""Options are declared once, in one class, and a declaration that would be misread is refused."""

from __future__ import annotations

import inspect
from abc import ABC
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import nn

from nlpcl.models import build_model
from nlpcl.models.base import Backbone
from nlpcl.models.images import MLP
from nlpcl.options import MISSING, Options, option
from nlpcl.ranges import Count, Weight
from nlpcl.registry import backbones, register_backbone, register_strategy, strategies
from nlpcl.training.plugin import Plugin
from nlpcl.training.strategy import ContinualStrategy, StrategyOptions
from tests.helpers.images import tiny_images
from tests.helpers.messages import mentions, refused


class Base(Options):
    strength: Weight = option(0.5, "a factor")
    steps: Count = option(help="required")


class Derived(Base):
    strength: Weight = option(2.0, "a larger factor")
    size: int | None = option(None, "a size")


T = TypeVar("T")
BaseT = TypeVar("BaseT", bound=Base)


class Holder(Generic[T]):
    """A base that knows no options."""


class Shared(Plugin[BaseT]):
    """What several methods are made of, whose options have those of `Base`."""


class Method(Shared[Derived]):
    """A method."""


class Variant(Method, Holder[int]):
    """Has the options of the method, and another base."""


class Mixed(Shared[Derived], ABC):
    """Has options of its own, and another base."""


def test_a_plugin_has_the_options_that_it_names() -> None:
    assert [cls.options_type for cls in (Shared, Method, Variant, Mixed)] == [Base, Derived, Derived, Derived]
    assert Variant(Derived(steps=3)).options == Variant(steps=3).options == Derived(steps=3)
    with pytest.raises(TypeError, match="Derived"):
        Method(Base(steps=3))


class Shaping(Plugin[StrategyOptions]):
    """A plugin that takes the model."""

    def __init__(self, model: nn.Module, options: StrategyOptions | None = None, **values: Any) -> None:
        super().__init__(options, **values)
        self.model = model


def test_a_strategy_makes_the_plugin_that_it_names() -> None:
    class Shaped(ContinualStrategy):
        plugin_type = Shaping

    net, model = nn.Linear(2, 2), build_model(tiny_images("til", (2, 2)), "mlp", hidden=4)
    (plugin, *_) = Shaped(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), parity=True).plugins
    assert isinstance(plugin, Shaping) and plugin.model is model and plugin.options.parity
    with pytest.raises(TypeError, match="Shaped"):
        Shaped(model=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))


def test_a_subclass_adds_options_and_changes_a_default() -> None:
    declared = Derived.declared()
    assert list(declared) == ["strength", "steps", "size"]
    assert [o.default for o in declared.values()] == [2.0, MISSING, None]
    assert declared["strength"].help == "a larger factor"
    values = Derived(steps=3)
    assert (values.strength, values.steps, values.size) == (2.0, 3, None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "steps"),
        ({"steps": 0}, "steps 0"),
        ({"steps": 1, "strength": -1.0}, "strength -1.0"),
        ({"steps": 1, "strenght": 1.0}, "strenght strength"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, Any], words: str) -> None:
    with refused(words):
        Derived(**values)


@pytest.mark.parametrize("name", ["seed", "tasks", "order", "model", "precision"])
def test_a_name_that_nlpcl_uses_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Taken: .*\b{name}\b"):
        type("Taken", (Options,), {"__annotations__": {name: int}, name: option(1, "a number"), "__module__": __name__})


def test_an_option_without_help_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Silent: .*\bstrength\b.*help"):
        type(
            "Silent",
            (Options,),
            {"__annotations__": {"strength": float}, "strength": option(1.0), "__module__": __name__},
        )


def test_another_type_than_in_the_base_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Other: .*\bsteps\b.*Base"):

        class Other(Base):
            steps: str = option("", "a text")  # type: ignore[assignment]  # the point


@pytest.mark.parametrize("declared", [StrategyOptions, Derived])
def test_a_strategy_that_names_an_option_in_its_constructor_is_refused(declared: type[Any]) -> None:
    class Method(ContinualStrategy):
        options_type = declared

        def __init__(self, *, strength: float = 0.1, **arguments: Any) -> None:
            super().__init__(**arguments)

    with strategies.replacing():
        with pytest.raises(ValueError) as caught:
            register_strategy("method", title="a method")(Method)
        assert mentions(str(caught.value), f"Method strength {declared.__name__}")
        assert "method" not in strategies.names()


def test_a_backbone_that_names_an_option_in_its_constructor_is_refused() -> None:
    class Net(MLP):
        def __init__(self, input_shape: tuple[int, int, int], hidden: int = 3) -> None:
            super().__init__(input_shape, hidden=hidden)

    with backbones.replacing(), pytest.raises(ValueError, match=r"Net: .*\bhidden\b.*MLPOptions"):
        register_backbone("net", title="a net", modality="image")(Net)


def test_a_fact_that_does_not_exist_is_refused() -> None:
    with strategies.replacing(), pytest.raises(TypeError, match="scenario"):
        register_strategy("method", title="a method", scenario="til")(ContinualStrategy)  # type: ignore[call-arg]


@pytest.mark.parametrize("entry", backbones.entries(), ids=lambda entry: entry.name)
def test_help_shows_a_backbones_options(entry: Any) -> None:
    assert issubclass(entry.target, Backbone)
    assert set(entry.options.declared()) <= set(inspect.signature(entry.target).parameters)
