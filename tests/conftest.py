"""A tiny generated encoder, tiny tasks and the folder with real data."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start; the models are tiny
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="nlpcl-tests-")  # not the user's cache

import pytest
import torch
from avalanche.benchmarks import CLScenario
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.registry import backbones
from tests.helpers.encoders import SPECIAL, WORDS
from tests.helpers.text_tasks import make_tasks, written

TESTS = Path(__file__).resolve().parent
# Files that train nothing, chosen by their processor time: `-m quick`.
QUICK = {
    *("test_architecture", "test_display", "test_encoders", "test_grid", "test_matrix", "test_metrics", "test_records"),
    *("test_files", "test_options", "test_spec", "test_tests"),
    *(f"benchmarks/test_{name}" for name in ("folder", "own_files", "own_labels", "own_parts", "own_tables")),
    "benchmarks/test_image_formats",
    *(f"leaderboard/test_{name}" for name in ("compare", "pairing", "results", "rows", "statistics", "submit")),
    *(f"models/test_{name}" for name in ("bayesian", "capsules", "contrast", "gates", "models", "projection")),
    *(f"models/test_{name}" for name in ("text_backbones", "text_gru")),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.path.relative_to(TESTS).with_suffix("").as_posix()
        if file in QUICK and item.get_closest_marker("full") is None:
            item.add_marker(pytest.mark.quick)


torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


def save_encoder(folder: Path, shape: str) -> str:
    """A 2-layer, width-32 encoder with random weights and a 21-word vocabulary, as a local folder."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if shape == "bert" else [])
    BertTokenizerFast(str(folder / "vocab.txt"), model_input_names=names).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": 21, "max_position_embeddings": 64}
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, **size}
    model: Any
    if shape == "bert":
        model = BertModel(BertConfig(**common))
    elif shape == "roberta":
        model = RobertaModel(RobertaConfig(**{**common, "type_vocab_size": 1, "pad_token_id": 0}))
    else:
        model = DistilBertModel(DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **size))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny encoders by shape."""
    root = tmp_path_factory.mktemp("encoders")
    return {shape: save_encoder(root / shape, shape) for shape in ("bert", "roberta", "distilbert")}


@pytest.fixture(scope="session")
def tiny(encoders: dict[str, str]) -> str:
    """The tiny BERT."""
    return encoders["bert"]


@pytest.fixture
def benchmark_of(tiny: str) -> Any:
    """Builds a tiny benchmark: `benchmark_of(scenario, classes)`."""

    def build(scenario: str = "til", classes: tuple[int, ...] = (2, 3), n: int = 64) -> CLScenario[Any]:
        return text_benchmark_from_tasks(
            make_tasks(classes, n), name="tiny", scenario=scenario, tokenizer=tiny, max_length=32
        )

    return build


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny tasks as files; in task-incremental learning the second turns the words' meaning round."""
    return {s: written(make_tasks((2, 2), flip=s == "til"), tmp_path_factory.mktemp(s)) for s in ("til", "dil")}


@pytest.fixture(scope="session")
def three_tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three that are tinier still."""
    return {
        s: written(make_tasks((2, 2, 2), n=24, flip=s == "til"), tmp_path_factory.mktemp(s)) for s in ("til", "dil")
    }


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("NLPCL_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "asc").is_dir():
        pytest.skip("real data absent: set NLPCL_TEST_DATA to a folder that holds asc/")
    return folder


@pytest.fixture(scope="session")
def models(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `model` is by backbone: the tiny encoder, or random vectors of the tests' words."""
    file = tmp_path_factory.mktemp("vectors") / "vectors.txt"
    vectors = torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(0)).tolist()
    file.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, vectors, strict=True)))
    texts = [entry.name for entry in backbones.entries() if entry.modality == "text"]
    return {name: str(file) if backbones.get(name).words else tiny for name in texts}
