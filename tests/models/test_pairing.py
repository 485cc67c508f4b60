"""A benchmark's tokens and the encoder that reads them belong together, on the command line and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.benchmarks._tokens import load_tokenizer
from nlpcl.cli import main
from nlpcl.errors import UsageError
from nlpcl.models import Bert, BertFrozen, build_model, precompute
from nlpcl.models.encoder import TextEncoder
from nlpcl.strategies.hal import HAL
from tests.helpers.encoders import WORDS, edit, packed, save_tiny, save_tokenizer, tiny_config
from tests.helpers.text_tasks import make_tasks


def benchmark_for(tokenizer: Any, max_length: int = 32) -> Any:
    return text_benchmark_from_tasks(
        make_tasks((2, 2), n=16), name="t", scenario="til", tokenizer=tokenizer, max_length=max_length
    )


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return save_tiny(tmp_path / "enc")


@pytest.fixture
def other(tmp_path: Path) -> str:
    """As many tokens with other meanings, so that no id is out of range."""
    folder = save_tiny(tmp_path / "other")
    save_tokenizer(Path(folder), WORDS[::-1])
    return folder


@pytest.mark.parametrize("backbone", ["bert", "bert_adapter", "bert_frozen"])
def test_without_an_encoder_it_is_the_tokenizer_s(backbone: str, folder: str) -> None:
    for tokenizer in (folder, Path(folder), load_tokenizer(folder)):
        model = build_model(benchmark_for(tokenizer), backbone)
        assert model.backbone.encoder.name == folder
    assert precompute(benchmark_for(folder)).encoder == folder


def test_another_encoder_is_refused(folder: str, other: str) -> None:
    benchmark = benchmark_for(folder)
    for call in (lambda: build_model(benchmark, "bert", other), lambda: precompute(benchmark, other)):
        with pytest.raises(UsageError, match="vocabulary"):
            call()
    with pytest.raises(UsageError, match="vocabulary"):
        build_model(benchmark, Bert(other))


def test_the_same_tokens_from_another_folder_are_the_same(folder: str, tmp_path: Path) -> None:
    again = save_tiny(tmp_path / "again")
    assert build_model(benchmark_for(folder), "bert", again).backbone
    assert build_model(benchmark_for(folder), "bert", f"{folder}/../enc").backbone
    alone = save_tiny(tmp_path / "alone")
    for file in Path(alone).iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    assert build_model(benchmark_for(folder), "bert", alone).backbone  # no tokenizer of its own that could differ


def test_a_tokenizer_of_nowhere_needs_an_encoder(folder: str) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.name_or_path = ""
    benchmark = benchmark_for(tokenizer)
    with pytest.raises(UsageError, match="encoder"):
        build_model(benchmark, "bert")
    build_model(benchmark, "bert", folder)
    tokenizer.add_tokens(["laptop"])
    with pytest.raises(UsageError, match="vocabulary"):
        build_model(benchmark_for(tokenizer), "bert", folder)


def test_ids_without_an_embedding_are_refused(folder: str) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["laptop"])
    with pytest.raises(UsageError, match=r"22.*21"):
        build_model(benchmark_for(tokenizer), "bert", BertModel.from_pretrained(folder))


@pytest.mark.parametrize("head", [False, True])
def test_a_loaded_encoder_is_copied(head: bool, folder: str) -> None:
    loaded = BertModel.from_pretrained(folder).bfloat16()
    if head:
        masked = BertForMaskedLM(loaded.config)
        masked.bert.load_state_dict(loaded.state_dict(), strict=False)
        loaded = masked.bfloat16()
    before = {name: p.clone() for name, p in loaded.state_dict().items()}
    for backbone in ("bert_adapter", "bert", "bert_frozen"):
        model = build_model(benchmark_for(folder), backbone, loaded)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    x = packed([3, 9])
    expected = loaded.base_model.float().eval()(x[:, 0], x[:, 1], x[:, 2]).last_hidden_state
    states = TextEncoder(loaded)(x)[0]
    assert torch.equal(states[x[:, 1].bool()], expected[x[:, 1].bool()])
    assert loaded.state_dict().keys() == before.keys()


@pytest.mark.parametrize("encoder", [3, torch.nn.Linear(2, 2), object])
def test_what_is_no_encoder_is_refused(encoder: Any, folder: str) -> None:
    with pytest.raises(UsageError, match="encoder"):
        build_model(benchmark_for(folder), "bert", encoder)
    with pytest.raises(UsageError, match="tokenizer"):
        benchmark_for(3)


def test_states_of_a_loaded_encoder_are_its_own(folder: str, tmp_path: Path) -> None:
    one, two = (BertModel(tiny_config("bert")) for _ in range(2))
    benchmark = benchmark_for(folder)
    precompute(benchmark, one)
    build_model(benchmark, "bert_frozen", one)
    with pytest.raises(UsageError, match="states"):
        build_model(benchmark, "bert_frozen", two)


MOST = {"bert": 64, "roberta": 63, "xlm-roberta": 63, "mpnet": 62, "distilbert": 64, "deberta-v2": 64, "electra": 64}


@pytest.mark.parametrize("kind", MOST)
def test_texts_longer_than_the_positions_are_refused(kind: str, tmp_path: Path) -> None:
    """Also by one; as many as fit pass."""
    folder, most = save_tiny(tmp_path / kind, kind), MOST[kind]
    long = benchmark_for(folder, most + 1)
    for call in (lambda: build_model(long, "bert"), lambda: precompute(long)):
        with pytest.raises(UsageError, match=rf"max_length.* {most} "):
            call()
    fits = benchmark_for(folder, most)
    backbone = build_model(fits, "bert").backbone
    assert backbone.features(packed([most], most), 0).isfinite().all()
    assert precompute(fits).width == 32


def test_a_tokenizer_s_own_limit_counts(folder: str) -> None:
    edit(folder, "tokenizer_config.json", model_max_length=16)
    for tokenizer in (folder, load_tokenizer(folder)):
        with pytest.raises(UsageError, match=r"max_length.* 16 "):
            build_model(benchmark_for(tokenizer), "bert", folder)


@pytest.mark.parametrize("kind", ["xlnet", "modernbert"])
def test_relative_positions_have_no_limit(kind: str, tmp_path: Path) -> None:
    assert build_model(benchmark_for(save_tiny(tmp_path / kind, kind), 200), "bert").backbone.positions is None


@pytest.mark.parametrize("kind", ["nystromformer", "mra"])
def test_a_table_that_is_longer_than_what_is_numbered_is_found(kind: str, tmp_path: Path) -> None:
    """These two keep two positions more than they number."""
    folder = save_tiny(tmp_path / kind, kind)
    benchmark = benchmark_for(folder, 66)
    with pytest.raises(UsageError, match="66 tokens"):
        build_model(benchmark, "bert")


def test_the_default_length_is_checked_on_the_command_line(folders: Any, tmp_path: Path, capsys: Any) -> None:
    folder = save_tiny(tmp_path / "enc")
    argv = ["run", "--benchmark", "folder", "--data-root", str(folders["til"]), "--strategy", "ncl", "--model", folder]
    for more in (["--backbone", "bert"], ["--backbone", "bert_frozen"], ["--set", "adapter_size=4"]):
        assert main([*argv, *more, "--out", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert "128" in error and "64" in error and "Traceback" not in error


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mpnet"])
def test_tokens_are_numbered_whatever_their_padding(kind: str, tmp_path: Path) -> None:
    """The oracle is the text alone; id 1 is a token of the tests' tokenizer, and the models' padding."""
    encoder = TextEncoder(save_tiny(tmp_path / kind, kind, pad_token_id=1)).eval()
    x = packed([7, 16], 16)
    x[:, 0, 3], x[:, 2] = 1, 0
    plain = torch.arange(2, 9)[None]
    with torch.no_grad():
        alone = encoder.model(x[:1, 0, :7], position_ids=plain).last_hidden_state[0]
        torch.testing.assert_close(encoder(x)[0][0, :7], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["hat", "ucl", "owm", "ctr", "bcl", "cat", "ewc", "hal"])
@pytest.mark.parametrize("kind", ["longformer", "albert", "esm"])
def test_methods_run_or_are_refused_before_training(kind: str, method: str, tmp_path: Path, capsys: Any) -> None:
    folder = save_tiny(tmp_path / kind, kind)
    argv = ["run", "--strategy", method, "--tasks", "2", "--train-size", "8", "--epochs", "1", "--max-length", "32"]
    code = main([*argv, "--model", folder, "--out", str(tmp_path / "runs")])
    assert code == 2 and kind in capsys.readouterr().err
    if method in ("ctr", "bcl"):
        return
    code = main([*argv, "--model", folder, "--backbone", "bert", "--out", str(tmp_path / "runs")])
    fits = method == "ewc" or (method == "hal" and kind != "esm")
    assert code == (0 if fits else 2), capsys.readouterr().err


def test_word_embeddings_that_are_not_what_an_encoder_reads(tmp_path: Path) -> None:
    """ESM scales its tokens by how many are masked, but not embeddings."""
    benchmark = benchmark_for(save_tiny(tmp_path / "esm", "esm"))
    model = build_model(benchmark, "bert")
    with pytest.raises(UsageError, match="embeddings"):
        HAL(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    frozen = build_model(benchmark, "bert_frozen", filters=4)
    HAL(model=frozen, optimizer=torch.optim.SGD(frozen.parameters(), 0.1))
    assert isinstance(frozen.backbone, BertFrozen)
