"""Damaged data, encoders, archives and checkpoints: a command ends with a record or one sentence, and leaves nothing.

A seed says what is damaged, and how. To repeat some: `NLPCL_FUZZ_SEEDS=17,4 pytest tests/test_fuzz.py -k encoder`.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nlpcl.cli import main
from nlpcl.records.record import Record
from tests.helpers.damage import damage
from tests.helpers.outcomes import Outcome, Runner
from tests.helpers.runs import Killed, content, killed_at
from tests.helpers.streams import (
    cifar_folder,
    cifar_images,
    cifar_members,
    cifar_tar,
    cifar_zip,
    mnist,
    newsgroups,
    nli,
    own_data,
    ssc,
    vlcs,
)

AREAS = {"own_data": 40, "encoder": 30, "published": 50, "run": 15, "cache": 15}
"""Seeds of each area that every run of the tests tries."""
AGAIN = [int(seed) for seed in os.environ.get("NLPCL_FUZZ_SEEDS", "").split(",") if seed]
MINUTES = float(os.environ.get("NLPCL_FUZZ_MINUTES", 10))
"""How long `-m full` tries fresh seeds, in all areas together."""
SHORT = {"strategy": "ncl", "epochs": "1", "train_batch_size": "16", "device": "cpu", "eval": "final"}
TEXT = {"backbone": "bert_adapter", "max_length": "16", "train_size": "8", "tasks": "2"}
IMAGES = {"backbone": "mlp", "set": "hidden=8", "tasks": "1"}


@dataclass(frozen=True)
class Input:
    """What a command reads.

    :param make: writes it below a folder.
    :param argv: returns the command that reads it there.
    :param pack: makes an archive of what `make` wrote, once that is damaged, below a folder.
    :param of: what the folder is: that of the `data`, of the `runs`, or of the `cache`.
    """

    make: Callable[[Path], object]
    argv: Callable[[Path], list[str]]
    pack: Callable[[Path, Path], object] | None = None
    of: Literal["data", "runs", "cache"] = "data"


def reads(stream: str, **options: str) -> Callable[[Path], list[str]]:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in {**SHORT, **options}.items()]
    return lambda root: ["run", "--benchmark", stream, "--data-root", str(root), *named]


def copied(folder: Path) -> Callable[[Path], object]:
    return lambda root: shutil.copytree(folder, root, dirs_exist_ok=True)


OF_IMAGES = {
    "mnist": Input(mnist, reads("SplitMNIST", **IMAGES)),
    "vlcs": Input(vlcs, reads("vlcs", **IMAGES)),
    "cifar folder": Input(cifar_folder, reads("SplitCIFAR10", **IMAGES)),
    "cifar zip": Input(cifar_images, reads("SplitCIFAR10", **IMAGES), cifar_zip),
    "cifar tar": Input(cifar_members, reads("SplitCIFAR10", **IMAGES), cifar_tar),
}


class Fuzz:
    """Damages inputs and runs the commands that read them.

    :param place: an empty folder.
    :param tiny: the folder of a tiny encoder.
    """

    def __init__(self, place: Path, tiny: str) -> None:
        self.place = place
        data, killed, done, warm = (place / name for name in ("data", "killed", "done", "warm"))
        own_data(data)
        text = {**TEXT, "model": tiny}
        of_run = reads("folder", **{**text, "epochs": "2", "strategy": "derpp", "set": "memory_share=0.25"})(data)
        frozen = reads("folder", **{**text, "backbone": "bert_frozen"})(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(warm))
            assert main([*frozen, "--out", str(place / "frozen")]) == main([*of_run, "--out", str(done)]) == 0
            killed_at((1, 2, "after"), patch)
            with pytest.raises(Killed):
                main([*of_run, "--out", str(killed), "--checkpoint-minutes", "1e-9"])

        def of_encoder(root: Path) -> list[str]:
            return reads("folder", **{**TEXT, "tasks": "1", "model": str(root)})(data)

        self.inputs = {
            "own_data": {"folder": Input(own_data, reads("folder", **text))},
            "encoder": {"encoder": Input(copied(Path(tiny)), of_encoder)},
            "published": OF_IMAGES
            | {make.__name__: Input(make, reads(make.__name__, **text)) for make in (newsgroups, nli, ssc)},
            "run": {
                "killed": Input(copied(killed), lambda root: of_run, of="runs"),
                "done": Input(copied(done), lambda root: of_run, of="runs"),
            },
            "cache": {"cache": Input(copied(warm), lambda root: frozen, of="cache")},
        }
        self.whole: dict[str, Record] = {}
        self.runner = Runner()

    def faults(self, area: str, seed: int) -> list[str]:
        """Damage an input as the seed says, run the command that reads it, and return what it should not have done."""
        rng = random.Random(f"{area} {seed}")
        name = rng.choice(sorted(self.inputs[area]))
        if name not in self.whole:
            whole, _ = self._run(self.inputs[area][name], None)
            assert whole.record is not None and not whole.faults, whole
            self.whole[name] = whole.record
        outcome, done = self._run(self.inputs[area][name], rng)
        faults, record = outcome.faults, outcome.record
        if outcome.code == 0 and record is None:
            faults.append("exit code 0 without a record")
        # What was read differently has another digest, and the run another id.
        same = record is not None and (area in ("run", "cache") or record.id == self.whole[name].id)
        if record is not None and same and content(record) != content(self.whole[name]):
            faults.append("another result under the same id")
        return [f"seed {seed}, {name}, {', '.join(done)}: {fault}" for fault in faults]

    def _run(self, chosen: Input, rng: random.Random | None) -> tuple[Outcome, list[str]]:
        """Run the command on an input; without `rng` it stays whole."""
        place = self.place / "attempt"
        shutil.rmtree(place, ignore_errors=True)
        root, packed = place / "in", place / "packed"
        root.mkdir(parents=True)
        chosen.make(root)
        done = []
        if rng is not None and (chosen.pack is None or rng.random() < 0.7):
            done = damage(root, rng)
        if chosen.pack is not None:
            chosen.pack(root, packed)
            if rng is not None and not done:
                done = damage(packed, rng)
            root = packed
        out = root if chosen.of == "runs" else place / "out"
        cache = root if chosen.of == "cache" else self.place / "cache"
        return self.runner.outcome_of([*chosen.argv(root), "--out", str(out)], out, cache), done


@pytest.fixture(scope="module")
def fuzz(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    fuzz = Fuzz(tmp_path_factory.mktemp("fuzz"), tiny)
    yield fuzz
    fuzz.runner.stop()


@pytest.mark.parametrize(("area", "seed"), [(area, seed) for area, n in AREAS.items() for seed in AGAIN or range(n)])
def test_damage(area: str, seed: int, fuzz: Fuzz) -> None:
    faults = fuzz.faults(area, seed)
    assert not faults, "\n".join(faults)


@pytest.mark.full
@pytest.mark.parametrize("area", AREAS)
def test_fresh_damage(area: str, fuzz: Fuzz, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how many inputs were tried, and how many survived: the figures of docs/reliability.md."""
    seed = first = random.SystemRandom().randrange(10**9)
    faults: dict[int, list[str]] = {}
    until = time.monotonic() + 60 * MINUTES / len(AREAS)
    while time.monotonic() < until:
        if found := fuzz.faults(area, seed):
            faults[seed] = found
        seed += 1
    with capsys.disabled():
        print(f"\n{area}: tried {seed - first}, survived {seed - first - len(faults)} (seeds from {first})")
    assert not faults, "\n".join(line for found in faults.values() for line in found)
