"""Checkpoints that somebody else wrote: none runs code, and each is taken up, or stepped past with a word."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlpcl.runs.checkpoint import CheckpointManager
from nlpcl.runs.checkpoint_folder import CheckpointFolder
from nlpcl.runs.fit import ProgressPlugin
from nlpcl.runs.progress import RunProgress
from nlpcl.runs.restore import Restore
from nlpcl.runs.results import Results
from nlpcl.runs.run import setup
from nlpcl.runs.state import Capture, NotSerializable, Streams
from tests.helpers.checkpoints import at, edit_json, edit_tensors, rewrite
from tests.helpers.messages import mentions
from tests.helpers.runs import Started, content, interrupted_run, run
from tests.helpers.witness import called

Node = list[Any]
Tensors = dict[str, torch.Tensor]
WITNESS: Node = ["constant", "tests.helpers.witness:function"]
OBJECT: Node = ["object", "tests.helpers.witness:Called", {}]


@pytest.fixture(scope="module")
def interrupted(models: dict[str, str], three_tasks: dict[str, Path], tmp_path_factory: Any) -> Started:
    """A spec, the folder of its run, which ended within the second task, and the record it should end with."""
    return interrupted_run("hat", models, three_tasks, tmp_path_factory.mktemp("interrupted"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs say."""
    sentences: list[str] = []
    monkeypatch.setattr(RunProgress, "say", lambda progress, sentence: sentences.append(sentence))
    return sentences


def shadow_a_method(tree: Node) -> None:
    at(tree, "strategy")["_before_training"] = WITNESS


def replace_an_object(tree: Node) -> None:
    at(tree, "strategy")["_criterion"] = OBJECT


def hook_the_model(tree: Node) -> None:
    of_model = at(tree, "model")
    of_model["_forward_pre_hooks"] = ["dict", "OrderedDict", [[["plain", 1], WITNESS]]]
    of_model["_forward_pre_hooks_with_kwargs"] = ["dict", "OrderedDict", []]


def make_an_object_load(tree: Node) -> None:
    at(tree, "strategy")["early_stopping"] = [*OBJECT[:2], {"get_extra_state()": ["plain", 0]}]


def fill_a_list(tree: Node) -> None:
    at(tree, "strategy", "plugins").append(OBJECT)


def change_a_class(tree: Node) -> None:
    at(tree, "strategy", "early_stopping")["__class__"] = WITNESS


@pytest.mark.parametrize(
    "craft",
    [shadow_a_method, replace_an_object, hook_the_model, make_an_object_load, fill_a_list, change_a_class],
    ids=lambda craft: craft.__name__,
)
def test_no_code_runs(
    craft: Callable[[Node], None], interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, said: list[str]
) -> None:
    """Neither from the state between two tasks nor from that within one."""
    spec, place, whole = interrupted
    for part in ("start", "now"):
        out = tmp_path / part
        shutil.copytree(place, out / spec.id)
        for path in (out / spec.id / "checkpoints").iterdir():
            edit_json(path, f"{part}.json", craft)
        called.clear()
        said.clear()
        record = run(spec, three_tasks["til"], out)
        assert called == []
        assert content(record) == content(whole) and record.measured.resumed == 0
        misfits = [line for line in said if mentions(line, "fit")]
        assert [mentions(line, number) for line, number in zip(misfits, ("11", "10"), strict=True)] == [True, True]


def drop(name: str) -> Callable[[Tensors], None]:
    """Leave a tensor out."""

    def change(tensors: Tensors) -> None:
        del tensors[next(key for key in tensors if key.endswith(name))]

    return change


def reshape(name: str, **to: Any) -> Callable[[Tensors], None]:
    """Add a row to a tensor, or give it another type."""

    def change(tensors: Tensors) -> None:
        key = next(key for key in tensors if key.endswith(name))
        tensors[key] = tensors[key].to(**to) if to else torch.cat([tensors[key]] * 2)

    return change


def head(**position: int) -> Callable[[Any], None]:
    return lambda content: content["position"].update(position)


MISFITS: dict[str, Callable[[Path], None]] = {
    "no such epoch": lambda path: edit_json(path, "head.json", head(epoch=2)),
    "no such step": lambda path: edit_json(path, "head.json", head(step=99)),
    "no such pass": lambda path: edit_json(path, "head.json", head(passes=2)),
    "no order": lambda path: edit_tensors(path, "now", drop("order")),
    "another order": lambda path: edit_tensors(path, "now", reshape("order")),
    "no parameter": lambda path: edit_tensors(path, "now", drop("heads.linears.1.weight")),
    "a longer parameter": lambda path: edit_tensors(path, "start", reshape("heads.linears.1.weight")),
    "a parameter in halves": lambda path: edit_tensors(path, "now", reshape("linears.1.bias", dtype=torch.half)),
    "no random state": lambda path: edit_json(path, "start.json", lambda tree: at(tree, "random").pop(0)),
    "a longer optimizer": lambda path: edit_tensors(path, "now", reshape("optimizer.state.1.0.1")),
    "deep": lambda path: rewrite(path, "now.json", b"[" * 100_000),
    "no tree": lambda path: rewrite(path, "start.json", b"3"),
    "no tensors": lambda path: rewrite(path, "now.safetensors", b"0" * 9),
    "a reference to nowhere": lambda path: edit_json(
        path, "now.json", lambda tree: at(tree, "strategy").update(scaler=["same", "run.nothing"])
    ),
    "a text for a number": lambda path: edit_json(
        path, "now.json", lambda tree: at(tree, "strategy", "early_stopping").update(scale=["plain", "1"])
    ),
    "a missing attribute": lambda path: edit_json(
        path, "start.json", lambda tree: at(tree, "strategy", "early_stopping").pop("best_epochs")
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_stepped_past(
    name: str, interrupted: Started, three_tasks: dict[str, Path], tmp_path: Path, said: list[str]
) -> None:
    """The newest is removed with a word, and the run goes on from the one before."""
    spec, place, whole = interrupted
    shutil.copytree(place, tmp_path / spec.id)
    MISFITS[name](tmp_path / spec.id / "checkpoints" / "11")
    record = run(spec, three_tasks["til"], tmp_path)
    assert content(record) == content(whole) and record.measured.resumed == 1
    assert [line for line in said if mentions(line, "11 fit")], said


HEADS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda content: content.update(rows="1"),
    "more rows": lambda content: content.update(rows=2),
    "rows below 0": lambda content: content.update(rows=-1),
    "huge": lambda content: content["position"].update(epoch=10**400),
    "a broken step": lambda content: content["position"].update(step=1.5),
    "format": lambda content: content.update(format="3"),
    "no record": lambda content: content.pop("record"),
    "more": lambda content: content.update(more=1),
    "a flat matrix": lambda content: content["record"]["matrices"].update(accuracy=[1.0]),
    "a score of 2": lambda content: content["record"]["matrices"]["accuracy"][0].__setitem__(0, 2.0),
    "seconds": lambda content: content["record"]["measured"]["seconds"].update(train=["1"]),
    "bytes": lambda content: content["record"]["sizes"].update(kept_bytes=[{"parameters": "many"}]),
    "resumed": lambda content: content["record"]["measured"].update(resumed=None),
    "data": lambda content: content["record"].update(data=[]),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_another_shape_is_damage(name: str, interrupted: Started, tmp_path: Path) -> None:
    spec, place, _ = interrupted
    shutil.copytree(place / "checkpoints", tmp_path / "copy")
    edit_json(tmp_path / "copy" / "11", "head.json", HEADS[name])
    folder = CheckpointFolder(tmp_path / "copy", spec.id)
    newest = folder.newest()
    assert newest is not None and newest[0].name == "10"
    assert len(folder.faults) == 1 and mentions(folder.faults[0], "11 damaged")


def test_only_numbers_are_checkpoints(interrupted: Started, tmp_path: Path) -> None:
    spec, place, _ = interrupted
    shutil.copytree(place / "checkpoints", tmp_path / "copy")
    for name in ("²", "٣", "012", "0", "-12", "1_2", "12.part", "9" * 200, "12 "):
        shutil.copytree(place / "checkpoints" / "10", tmp_path / "copy" / name)
    assert CheckpointFolder(tmp_path / "copy", spec.id).numbers() == [10, 11]


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Each place in a tree of lists and dicts, as the container and the index or key."""
    places: list[tuple[Any, Any]] = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        places.append((tree, key))
        if isinstance(value, (list, dict)):
            places += nodes(value)
    return places


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "run", "run.model", "__class__"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["plain", "train", "x"]), inner, max_size=2)
    ),
    max_leaves=5,
)
NAMES = ["train", "forward", "__class__", "__dict__", "_forward_hooks", "plugins", "state", "model", "task_state"]
CRAFTED: list[Node] = [
    *(
        WITNESS,
        OBJECT,
        ["same", "run"],
        ["same", "run.strategy"],
        ["same", ""],
        ["plain", None],
        ["plain", {}],
        ["kept"],
    ),
    *(["constant"], ["generator"], ["array"], ["device", "cuda"], ["tensor", "cpu", True], ["dataset", ["plain", []]]),
    *(["optimizer", ["items", "list", []]], ["state", ["dict", "dict", []]], ["items", "type", []], ["_made", 1]),
    *(["object", "builtins:object", {}], ["object", "nlpcl.strategies.owm:Projector", {}], []),
    *(["module", "torch.nn.modules.linear:Linear", [True, None, {}, {}]], ["dict", "defaultdict", [[1, 2]]]),
]


@pytest.fixture(scope="module")
def untrained(interrupted: Started, three_tasks: dict[str, Path]) -> tuple[Any, Any]:
    """The benchmark and the strategy of the run, as it begins."""
    root, plugins = three_tasks["til"], [ProgressPlugin(RunProgress())]
    return setup(interrupted[0], device=torch.device("cpu"), data_root=root, plugins=plugins)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_tree_is_taken_up_or_refused(
    data: st.DataObject, interrupted: Started, untrained: tuple[Any, Any], tmp_path: Path
) -> None:
    """Whatever is changed in it: no code runs, and nothing but a `NotSerializable` is raised."""
    spec, place, _ = interrupted
    benchmark, strategy = untrained
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(place / "checkpoints", tmp_path / "copy")

    def change(tree: Any) -> None:
        for _ in range(data.draw(st.integers(1, 3), label="changes")):
            places = nodes(tree)
            container, key = places[data.draw(st.integers(0, len(places) - 1), label="place")]
            kind = data.draw(st.sampled_from(["other", "crafted", "swap", "drop", "name", "twice"]), label="kind")
            if kind == "other":
                container[key] = data.draw(JSON)
            elif kind == "crafted":
                container[key] = copy.deepcopy(data.draw(st.sampled_from(CRAFTED)))
            elif kind == "swap":
                other, there = places[data.draw(st.integers(0, len(places) - 1), label="other place")]
                container[key] = copy.deepcopy(other[there])
            elif kind == "drop":
                del container[key]
            elif isinstance(container, dict):
                container[data.draw(st.sampled_from(NAMES))] = container.pop(key) if kind == "name" else container[key]
            elif kind == "twice":
                container.append(copy.deepcopy(container[key]))

    edit_json(tmp_path / "copy" / "11", "start.json", change)
    folder = CheckpointFolder(tmp_path / "copy", spec.id)
    called.clear()
    strategy = copy.deepcopy(strategy)
    results = Results(spec, benchmark, strategy, compiled=False, begun=0.0)
    manager = CheckpointManager(folder, strategy, benchmark, 0, results, RunProgress())
    try:
        manager.resume()
    except NotSerializable as error:
        assert "\n" not in str(error)
    assert called == []


def test_examples_that_are_not_in_the_stream_are_refused(interrupted: Started, untrained: tuple[Any, Any]) -> None:
    benchmark, _ = untrained
    streams = Streams(benchmark)
    data = benchmark.train_stream[1].dataset.subset([3, 1])
    capture = Capture(False, {}, streams)
    node = capture.node(data, "memory")

    def restored(**tensors: torch.Tensor) -> Any:
        changed = capture.tensors | {f"memory.{name}": t for name, t in tensors.items()}
        return Restore(changed, torch.device("cpu"), {}, streams).value(json.loads(json.dumps(node)), data, "memory")

    assert [int(y) for y in restored().targets] == [int(y) for y in data.targets]
    for wrong in ({"row": torch.tensor([3, 999])}, {"row": torch.tensor([-1, 1])}, {"part": torch.tensor([0, 7])}):
        with pytest.raises(NotSerializable):
            restored(**wrong)
