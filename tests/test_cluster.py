"""A sweep on a Ray cluster of two nodes, one of which dies."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nlpcl.cli import main
from nlpcl.config.arguments import Request
from nlpcl.records.record import Record
from nlpcl.sweeps.cells import Cell, Execution, Outcome, last_line
from nlpcl.sweeps.local import run_local
from nlpcl.sweeps.plan import plan
from nlpcl.sweeps.ray import Needs, run_on_ray
from tests.helpers.messages import refused

EPOCHS = 80  # long enough for two runs to work at once, whenever they started


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores and two nodes with one each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield found
    finally:
        found.shutdown()


class Watching:
    """A watch that keeps the outcomes and does something, once, when two runs at once are `ready`."""

    def __init__(self, ready: Callable[[Cell], bool] = bool, act: Callable[[], None] | None = None) -> None:
        self.ready = ready
        self.act = act
        self.outcomes: list[Outcome] = []
        self.stopped = 0

    def running(self, cells: Sequence[Cell]) -> None:
        if self.act is not None and sum(map(self.ready, cells)) == 2:
            act, self.act = self.act, None
            act()

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def stopping(self, runs: int) -> None:
        self.stopped = runs


def cells_of(tiny: str, out: Path, runs: int, epochs: int = EPOCHS) -> list[Cell]:
    fields = {"tasks": "2", "train_size": "64", "epochs": str(epochs), "model": tiny, "strategy": "ncl"}
    return plan([Request({**fields, "seed": str(seed)}, ("adapter_size=8",)) for seed in range(runs)], out).cells


def checkpoints(out: Path, cell: Cell) -> list[Path]:
    return list((out / cell.id / "checkpoints").glob("*[0-9]/sums.json"))


def test_a_run_on_ray_is_that_of_a_process(cluster: Any, tiny: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Bit for bit, at the same number of threads."""
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for name in ("ray", "process"):
        (cell,), watch = cells_of(tiny, tmp_path / name, 1, epochs=2), Watching()
        execution = Execution(tmp_path / name, device="cpu")
        if name == "ray":
            run_on_ray([cell], cluster.address, Needs(), execution, watch, main)
        else:
            run_local([cell], 1, execution, watch)
        assert watch.outcomes == [Outcome(cell, None)]
        found.append(Record.load(tmp_path / name / cell.id / "record.json").model_dump(exclude={"measured"}))
    assert found[0] == found[1]


@pytest.mark.full
def test_a_node_that_dies_costs_no_run(cluster: Any, tiny: str, tmp_path: Path) -> None:
    """Of two runs in hand one loses its node; it goes on from its checkpoint on the other."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    cells, execution = cells_of(tiny, tmp_path, 3), Execution(tmp_path, device="cpu", checkpoint_minutes=0.01)
    watch = Watching(
        lambda cell: bool(checkpoints(tmp_path, cell)), lambda: cluster.remove_node(nodes[0], allow_graceful=False)
    )
    run_on_ray(cells, cluster.address, Needs(), execution, watch, main)
    assert watch.act is None
    assert sorted(outcome.cell.id for outcome in watch.outcomes) == sorted(cell.id for cell in cells)
    assert [outcome.error for outcome in watch.outcomes] == [None] * 3
    assert sorted(path.name for path in tmp_path.glob("*/*")) == sorted(["record.json", "log.txt"] * 3)
    assert sorted(Record.load(path).measured.resumed for path in tmp_path.glob("*/record.json")) == [0, 0, 1]
    logs = [cell.log(execution).read_text() for cell in cells]
    assert [text.count("record: ") for text in logs] == [1] * 3  # the end of a run: none came to it twice


@pytest.mark.full
def test_an_interrupted_sweep_leaves_checkpoints(cluster: Any, tiny: str, tmp_path: Path) -> None:
    """Without checkpoints in time, so that those within a task were saved when the sweep was interrupted."""
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    cells, execution = cells_of(tiny, tmp_path, 3), Execution(tmp_path, device="cpu", checkpoint_minutes=0)

    watch = Watching(
        lambda cell: ", epoch " in last_line(cell.log(execution)), lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(KeyboardInterrupt):
        run_on_ray(cells, cluster.address, Needs(), execution, watch, main)
    assert watch.stopped == 2 and watch.outcomes == [] and not list(tmp_path.glob("*/record.json"))
    within_a_task = [any(file.with_name("now.json").exists() for file in checkpoints(tmp_path, cell)) for cell in cells]
    assert within_a_task == [True, True, False]
    run_on_ray(cells, cluster.address, Needs(), execution, watch, main)
    assert [outcome.error for outcome in watch.outcomes] == [None] * 3
    assert [Record.load(tmp_path / cell.id / "record.json").measured.resumed for cell in cells] == [1, 1, 0]


def test_what_the_cluster_cannot_hold_is_refused(cluster: Any, tiny: str, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    cells, execution = cells_of(tiny, tmp_path, 1), Execution(tmp_path)
    for needs, missing in (
        (Needs(cpus=3), "3 0 GPU"),
        (Needs(gpus=1), "1 GPU"),
        (Needs(memory=1e6), "GiB"),
    ):
        with refused(f"node {missing}"):
            run_on_ray(cells, cluster.address, needs, execution, Watching(), main)


def test_no_cluster_is_told(tiny: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    execution = Execution(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nothing listens there
        closed = f"127.0.0.1:{unused.getsockname()[1]}"
        for address in ("auto", closed, "127.0.0.1:99999", f"{'a' * 70}.invalid:1"):
            with refused("--ray local"):
                run_on_ray(cells_of(tiny, tmp_path, 1), address, Needs(), execution, Watching(), main)
    with refused("head auto local host:port"):
        run_on_ray([], "head", Needs(), execution, Watching(), main)
