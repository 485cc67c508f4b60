"""Frozen word vectors with a convolutional net: what trains, padding, sites, and how a run names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.benchmarks.words import Words
from nlpcl.config.files import sha256
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.models import WordVectors, build_model
from nlpcl.models.base import unprotected
from nlpcl.runs import run as experiment
from tests.helpers.encoders import WORDS, packed
from tests.helpers.loops import loop_cnn
from tests.helpers.messages import mentions, refused
from tests.helpers.sites import check_sites
from tests.helpers.text_tasks import make_tasks

pytest.importorskip("gensim")


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Random vectors of the tests' words, as GloVe writes them."""
    vectors = torch.randn(len(WORDS), 6, generator=torch.Generator().manual_seed(0)).tolist()
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, vectors, strict=True)))
    return str(path)


def matrix(n: int = 21, width: int = 6) -> torch.Tensor:
    found = torch.randn(n, width, generator=torch.Generator().manual_seed(1))
    found[:2] = 0
    return found


@pytest.mark.parametrize("layers", [0, 2])
def test_the_feature_is_kims_net_on_the_vectors(layers: int) -> None:
    backbone = WordVectors(matrix(), filters=4, layers=layers, hidden=5).eval()
    x = packed([9, 3, 1])
    x[0, 0, 2] = 1  # an unknown word is a zero vector that takes a place
    with torch.no_grad():
        out = backbone.features(x, 0)
        for row, length in enumerate([9, 3, 1]):
            expected = loop_cnn(backbone.net, matrix()[x[row, 0, :length]])
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 2])
def test_sites_and_what_trains(layers: int) -> None:
    backbone = WordVectors(matrix(), filters=4, layers=layers)
    assert [site.width for site in backbone.sites()] == [4, 4, 4] + [300] * layers
    check_sites(backbone.sites(), backbone, packed([5, 9]))
    assert not unprotected(backbone)
    trainable = {name.partition(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"net"}


def test_a_net_without_a_width_has_that_of_the_vectors() -> None:
    assert WordVectors(matrix(width=6), layers=1, hidden=None).width == 6


def test_padding_changes_nothing_but_with_parity() -> None:
    backbone, x = WordVectors(matrix()).eval(), packed([3, 9, 14, 1])
    trimmed = backbone.features(x, 0)
    alone = torch.cat([backbone.features(x[i : i + 1], 0) for i in range(4)])
    torch.testing.assert_close(trimmed, alone, atol=1e-5, rtol=0)
    backbone.encoder.padding = "fixed"
    torch.testing.assert_close(trimmed, backbone.features(x, 0), atol=1e-5, rtol=0)
    backbone.set_parity()
    padded = torch.cat([x, torch.zeros(4, 3, 8, dtype=torch.long)], dim=2)
    assert backbone.context.mask is not None and not backbone.context.mask.all()
    assert not torch.equal(backbone.features(padded, 0), trimmed)
    assert backbone.context.mask.shape == (4, 40) and backbone.context.mask.all()


def test_recurrent_units_read_the_vectors_too() -> None:
    backbone, x = WordVectors(matrix(), net="gru", hidden=7).eval(), packed([3, 9, 14, 1])
    trimmed = backbone.features(x, 0)
    assert trimmed.shape == (4, 7)
    alone = torch.cat([backbone.features(x[i : i + 1], 0) for i in range(4)])
    torch.testing.assert_close(trimmed, alone, atol=1e-5, rtol=0)
    with refused("net grus gru"):
        WordVectors(matrix(), net="grus")  # type: ignore[arg-type]


def test_loading_a_state_leaves_the_benchmarks_vectors_alone() -> None:
    mine = matrix()
    backbone = WordVectors(mine)
    backbone.load_state_dict(WordVectors(matrix() + 1).state_dict())
    assert torch.equal(mine, matrix()) and not torch.equal(backbone.encoder.model.weight, mine)


def test_a_backbone_and_a_benchmark_must_fit(file: str, tiny: str) -> None:
    def benchmark(tokenizer: Any) -> Any:
        return text_benchmark_from_tasks(
            make_tasks((2, 2)), name="t", scenario="til", tokenizer=tokenizer, max_length=16
        )

    model = build_model(benchmark(Words(file)), backbone="w2v", filters=4)
    assert model(packed([4], 16).clamp(max=17), 0).shape == (1, 2)
    with refused("w2v words"):
        build_model(benchmark(tiny), backbone="w2v")
    with refused("bert words"):
        build_model(benchmark(Words(file)), backbone="bert", encoder=tiny)


@pytest.mark.parametrize("backbone", ["w2v", "w2v_as"])
@pytest.mark.parametrize("with_file", [True, False])
def test_a_run(backbone: str, with_file: bool, file: str) -> None:
    """The vectors stay as they are; the record says which they were, and its spec repeats the run."""
    given = {
        **{"benchmark": "demo", "strategy": "ncl", "backbone": backbone, "tasks": 2, "train_size": 16, "epochs": 1},
        **({"model": file} if with_file else {}),
    }
    spec = resolve(RunSpec.parse(given))
    assert (spec.model, spec.padding, spec.learning_rate) == (file if with_file else None, "dynamic", 1e-3)
    assert RunSpec.parse(spec.model_dump(mode="json", exclude_unset=True)).id == spec.id
    record = experiment.run(spec, out=None, device="cpu")
    encoder = record.data["encoder"]
    assert encoder.get("sha256") == (sha256(Path(file)) if with_file else None)
    assert with_file or mentions(encoder["trained_on"], "laptop")
    again = experiment.run(record.run_spec(), out=None, device="cpu")
    assert again.model_dump(exclude={"measured"}) == record.model_dump(exclude={"measured"})

    benchmark, strategy = experiment.setup(spec, device=torch.device("cpu"))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert torch.equal(strategy.model.backbone.encoder.model.weight, benchmark.vectors.matrix)
    longest = max(int(benchmark.train_stream[0].dataset[i][0][1].sum()) for i in range(16))
    other = "w2v" if backbone == "w2v_as" else "w2v_as"
    theirs = experiment.setup(spec.model_copy(update={"backbone": other}), device=torch.device("cpu"))[0]
    assert (longest > max(int(theirs.train_stream[0].dataset[i][0][1].sum()) for i in range(16))) is (
        backbone == "w2v_as"
    )


def test_an_encoder_is_no_file_of_vectors() -> None:
    with refused("minilm w2v"):
        resolve(RunSpec.parse({"strategy": "ncl", "backbone": "w2v", "model": "minilm"}))
    with refused("model"):
        stored = resolve(RunSpec.parse({"strategy": "ncl", "backbone": "bert"})).model_dump(mode="json")
        resolve(RunSpec.parse({**stored, "model": None}))
