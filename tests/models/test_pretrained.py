"""What a folder's files may do wrong: the encoder computes with what they hold, in float32, or is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModel, BertForMaskedLM, BertModel, BertTokenizerFast

from nlpcl.benchmarks._tokens import load_tokenizer, tokenize
from nlpcl.cli import main
from nlpcl.config.encoders import model_digest
from nlpcl.errors import UsageError
from nlpcl.models import Bert, BertAdapter
from nlpcl.models.encoder import TextEncoder
from nlpcl.models.encoder_files import check_kind, load_encoder
from tests.helpers.encoders import edit, packed, save_tiny, store, tiny_config, weights

QUERY = "encoder.layer.1.attention.self.query.weight"
INDEX = "model.safetensors.index.json"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
Fault = Callable[[Path], Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a fault."""
    return Path(save_tiny(tmp_path_factory.mktemp("sound") / "enc"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(sound, tmp_path / "enc")


def change(fault: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Fault:
    return lambda folder: store(folder, fault(weights(folder)))


def without(*keys: str) -> Fault:
    return change(lambda old: {k: v for k, v in old.items() if k not in keys})


def write(name: str, content: str | bytes) -> Fault:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 7)


def only_bin(folder: Path) -> None:
    torch.save(weights(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def only_adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x", "peft_type": "LORA"}')


def inner(folder: Path) -> None:
    """As sentence-transformers saved folders at first."""
    shutil.copytree(folder, folder / "0_Transformer")
    (folder / "config.json").unlink()
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "path": "0_Transformer"}]))


def shards(present: int) -> Fault:
    def split(folder: Path) -> None:
        tensors = weights(folder)
        names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        place = {key: names[i % 2] for i, key in enumerate(tensors)}
        for name in names[:present]:
            save_file({k: tensors[k] for k in tensors if place[k] == name}, folder / name, metadata={"format": "pt"})
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": place}))
        (folder / "model.safetensors").unlink()

    return split


def asks(**config: Any) -> Fault:
    return lambda folder: edit(folder, **config)


FAULTS: dict[str, tuple[Fault, str]] = {
    "keys of DataParallel": (change(lambda old: {f"module.{k}": v for k, v in old.items()}), "embeddings"),
    "a key dropped": (without(QUERY), "query"),
    "a key renamed": (change(lambda old: {k.replace("query", "q"): v for k, v in old.items()}), "query"),
    "a key too many inside": (change(lambda old: {**old, "encoder.layer.0.lora": torch.zeros(2)}), "lora"),
    "half a pooler": (without("pooler.dense.bias"), "pooler"),
    "more layers asked": (asks(num_hidden_layers=4), "layer.2"),
    "fewer layers asked": (asks(num_hidden_layers=1), "num_hidden_layers"),
    "another width": (asks(hidden_size=64), "shape"),
    "another vocabulary": (asks(vocab_size=22), "word_embeddings"),
    "a shape": (change(lambda old: {**old, QUERY: old[QUERY][:5]}), "query"),
    "integers": (change(lambda old: {**old, QUERY: (9 * old[QUERY]).to(torch.int8)}), "I8"),
    "not finite": (change(lambda old: {**old, QUERY: old[QUERY] * float("nan")}), "finite"),
    "cut short": (cut, "safetensors"),
    "empty": (write("model.safetensors", b""), "safetensors"),
    "garbage": (write("model.safetensors", b"\x00garbage" * 99), "safetensors"),
    "pointer of weights": (write("model.safetensors", LFS), "LFS"),
    "pointer of config": (write("config.json", LFS), "LFS"),
    "only .bin": (only_bin, "unpickled"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "a shard missing": (shards(1), "model-00002-of-00002"),
    "an index of nothing": (lambda folder: (shards(2)(folder), write(INDEX, "{}")(folder)), "weight_map"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "config is no JSON": (write("config.json", "{"), "JSON"),
    "config is a list": (write("config.json", "[]"), "JSON"),
    "no model_type": (asks(model_type=None), "model_type"),
    "unknown model_type": (asks(model_type="nonsense"), "nonsense"),
    "quantised": (asks(quantization_config={"quant_method": "gptq", "bits": 4}), "quantization_config"),
    "heads do not divide": (asks(num_attention_heads=3), "config.json"),
    "a size is a word": (asks(vocab_size="many"), "config.json"),
    "no such activation": (asks(hidden_act="nonsense"), "config.json"),
    "a decoder": (asks(is_decoder=True), "decoder"),
    "an adapter alone": (only_adapter, "PEFT"),
    "in a folder of its own": (inner, "0_Transformer"),
    "layers without end": (asks(num_hidden_layers=10**9), "num_hidden_layers"),
    "layers of no width": (asks(intermediate_size=0), "intermediate"),
    "a vocabulary without end": (asks(vocab_size=10**9), "belong together"),
    "long names": (change(lambda old: {"y" * 3000 + k: v for k, v in old.items()}), "37 weights"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, folder: Path) -> None:
    spoil, word = FAULTS[fault]
    spoil(folder)
    with pytest.raises(UsageError, match=word):
        TextEncoder(str(folder))


@pytest.mark.parametrize("fault", ["cut short", "only .bin", "a decoder", "no model_type", "quantised"])
def test_a_fault_of_the_files_is_named_before_texts_are_tokenised(fault: str, folder: Path) -> None:
    spoil, word = FAULTS[fault]
    spoil(folder)
    with pytest.raises(UsageError, match=word):
        load_tokenizer(str(folder))


def test_shards_are_one_file(sound: Path, folder: Path) -> None:
    shards(2)(folder)
    x = packed([3, 9])
    assert torch.equal(TextEncoder(str(folder))(x)[0], TextEncoder(str(sound))(x)[0])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, "mixed"])
def test_what_is_stored_in_other_floats_is_computed_in_float32(kind: Any, folder: Path, tmp_path: Path) -> None:
    """The oracle holds the same numbers, stored in float32."""
    mixed = [torch.bfloat16, torch.float16, torch.float32]
    stored = {k: v.to(mixed[i % 3] if kind == "mixed" else kind) for i, (k, v) in enumerate(weights(folder).items())}
    same = shutil.copytree(folder, tmp_path / "same")
    store(same, {k: v.float() for k, v in stored.items()})
    store(folder, stored)
    edit(folder, torch_dtype="bfloat16")
    for backbone in (Bert(str(folder)), BertAdapter(str(folder), adapter_size=4)):
        assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    x = packed([3, 9])
    assert torch.equal(TextEncoder(str(folder))(x)[0], TextEncoder(str(same))(x)[0])


def test_a_pooler_that_is_not_stored_is_left_out(folder: Path, tmp_path: Path) -> None:
    with_pooler = TextEncoder(str(folder))
    masked = BertForMaskedLM(tiny_config("bert"))
    masked.bert.load_state_dict({k: v for k, v in weights(folder).items() if not k.startswith("pooler")})
    alone = TextEncoder(save_tiny(tmp_path / "masked", model=masked))
    x = packed([3, 9])
    assert torch.equal(alone(x)[0], with_pooler(x)[0])
    assert alone(x)[1] is None and with_pooler(x)[1] is not None
    names = {name for name, _ in with_pooler.named_parameters()}
    assert {name for name, _ in alone.named_parameters()} == {name for name in names if "pooler" not in name}
    with pytest.raises(UsageError, match="pooler"):
        Bert(str(tmp_path / "masked"), pooling="pooler")


@pytest.mark.parametrize("kind", ["albert", "big_bird", "mpnet", "roberta", "longformer"])
def test_other_encoders_do_without_a_pooler_too(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / kind, kind)
    x = packed([3, 9])
    expected = TextEncoder(folder)(x)[0]
    store(folder, {k: v for k, v in weights(folder).items() if not k.startswith("pooler")})
    assert torch.equal(TextEncoder(folder)(x)[0], expected)


def test_loading_draws_nothing(folder: Path) -> None:
    state = torch.get_rng_state()
    TextEncoder(str(folder))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["t5", "bart", "mbart", "gpt2", "opt", "llama", "vit", "clip", "whisper", "dpr"])
def test_what_is_no_encoder_of_text_is_refused(kind: str, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    words = {"gpt2": "is a decoder", "opt": "is a decoder", "llama": "is a decoder"}
    words |= dict.fromkeys(("t5", "bart", "mbart", "whisper"), "encoder-decoder")
    for load in (load_tokenizer, TextEncoder):
        with pytest.raises(UsageError, match=words.get(kind, "not known as an encoder")):
            load(str(folder))


# Models for causal language modelling are built upon these; which of them is an encoder, only its states tell.
EITHER = ["bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "flaubert"]
EITHER += ["megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta"]
EITHER += ["xlm-roberta-xl", "xlnet", "xmod", "gpt_neox", "gpt_neox_japanese", "gpt2"]


SWITCHED = [("xlm", {"causal": True}), ("flaubert", {"causal": True})]
SWITCHED += [("bert-generation", {"is_decoder": True}), ("roformer", {"is_decoder": True})]


@pytest.mark.parametrize(("kind", "switch"), [*((kind, {}) for kind in EITHER), *SWITCHED])
def test_only_what_sees_no_later_tokens_is_called_a_decoder(kind: str, switch: dict[str, Any]) -> None:
    """The oracle: whether the first state changes with the last token."""
    languages = {"languages": ["en_XX"], "default_language": "en_XX"} if kind == "xmod" else {}
    config = tiny_config(kind, **languages, **switch)
    model = AutoModel.from_config(config).eval()
    ids = torch.arange(5, 13)[None].repeat(2, 1)
    ids[1, -1] = 14
    with torch.inference_mode():
        one, other = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0][:, 0]
    if torch.equal(one, other):
        with pytest.raises(UsageError, match="is a decoder"):
            check_kind(config, kind)
    else:
        check_kind(config, kind)


def test_bert_generation_is_an_encoder_unless_its_configuration_says_otherwise(tmp_path: Path) -> None:
    folder = Path(save_tiny(tmp_path / "enc", "bert-generation"))
    assert TextEncoder(str(folder))(packed([3, 9]))[0].shape == (2, 32, 32)
    edit(folder, is_decoder=True)
    with pytest.raises(UsageError, match="is a decoder"):
        TextEncoder(str(folder))


def test_states_of_another_width_are_refused(tmp_path: Path) -> None:
    """Reformer gives the two halves of its reversible layers."""
    sizes = {"axial_pos_embds": False, "attn_layers": ["local"], "is_decoder": False}
    with pytest.raises(UsageError, match="states"):
        TextEncoder(save_tiny(tmp_path / "reformer", "reformer", **sizes))


# Each from the states (B, L, H) of a sound encoder, where B is 1 for a text alone.
MIXES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean of the batch": lambda states: states + states.mean(dim=0),
    "the next text's": lambda states: states.roll(1, dims=0),
    "normalised over the batch": lambda states: states / states.norm(dim=0),
    "read the other way round": lambda states: states.transpose(0, 1).reshape(states.shape),
    "two for a text alone": lambda states: states.expand(2, -1, -1) if len(states) == 1 else states,
}


@pytest.mark.parametrize("mix", MIXES)
def test_an_encoder_that_mixes_the_texts_of_a_batch_is_refused(mix: str) -> None:
    class Mixing(BertModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.last_hidden_state = MIXES[mix](out.last_hidden_state)
            return out

    state = torch.get_rng_state()
    model = Mixing(tiny_config("bert"))
    torch.set_rng_state(state)
    with pytest.raises(UsageError, match="batch"):
        TextEncoder(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("length", "landmarks"), [(4, 2), (16, 4), (16, 8), (24, 4), (24, 12), (32, 8)])
def test_a_nystromformer_that_folds_texts_into_one_is_refused(length: int, landmarks: int, tmp_path: Path) -> None:
    """It cuts what it is given into texts of `segment_means_seq_len`, whatever the batch."""
    sizes = {"segment_means_seq_len": length, "num_landmarks": landmarks}
    with pytest.raises(UsageError, match="encoder"):
        TextEncoder(save_tiny(tmp_path / "nystromformer", "nystromformer", **sizes))


def take_out(*patterns: str) -> Fault:
    return lambda folder: [file.unlink() for pattern in patterns for file in folder.glob(pattern)]


NO_TOKENIZER: dict[str, Fault] = {
    "none": take_out("tokenizer*", "vocab*", "special*"),
    "settings alone": take_out("tokenizer.json", "vocab.txt"),
    "pointer": write("tokenizer.json", LFS),
    "garbage": write("tokenizer.json", "garbage"),
    "another object": write("tokenizer.json", "{}"),
}


@pytest.mark.parametrize("fault", NO_TOKENIZER)
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "xlm-roberta"])
def test_a_folder_without_its_tokenizer_is_refused(fault: str, kind: str, tmp_path: Path) -> None:
    folder = Path(save_tiny(tmp_path / kind, kind))
    NO_TOKENIZER[fault](folder)
    with pytest.raises(UsageError, match="tokenizer"):
        load_tokenizer(str(folder))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


NAMES = ["config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "merges.txt"]
NAMES += ["special_tokens_map.json", "added_tokens.json", "spiece.model", "chat_template.jinja", "adapter_config.json"]


@pytest.mark.parametrize("make", [pipe, loop, Path.mkdir])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_an_encoder_is_a_plain_file(name: str, make: Fault, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    for read in (load_encoder, load_tokenizer):
        with pytest.raises(UsageError, match=name):
            read(str(folder))
    if name not in ("chat_template.jinja", "merges.txt"):  # no part of an encoder's digest, or only if it is there
        with pytest.raises(UsageError, match=name):
            model_digest(str(folder), words=False)


def no_unknown_in_json(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    del content["model"]["vocab"]["[UNK]"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]
    write("tokenizer.json", json.dumps(content))(folder)


CANNOT_ENCODE: dict[str, Fault] = {
    "no token for unknown words": no_unknown_in_json,
    "no mask": lambda folder: edit(folder, "tokenizer_config.json", model_input_names=["input_ids"]),
    "inputs are a word": lambda folder: edit(folder, "tokenizer_config.json", model_input_names="input_ids"),
    "inputs are an object": lambda folder: edit(folder, "tokenizer_config.json", model_input_names={"a": 1}),
}


@pytest.mark.parametrize("fault", CANNOT_ENCODE)
def test_a_tokenizer_that_cannot_encode_is_refused_with_its_name(fault: str, folder: Path) -> None:
    CANNOT_ENCODE[fault](folder)
    with pytest.raises(UsageError, match=f"{folder}.*cannot encode"):
        tokenize(load_tokenizer(str(folder)), ["a word that is unknown"], None, 16)


def test_names_of_a_tokenizer_s_inputs_must_be_texts(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", model_input_names=["input_ids", 1])
    with pytest.raises(UsageError, match=f"{folder}.*model_input_names"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    ("length", "words"), [(65, "65.*64"), (512, "512.*64"), (513, "512"), (10**30, "512"), (7, "8")]
)
def test_data_are_prepared_for_a_length_that_a_run_takes(
    length: int, words: str, tiny: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "prepare", "folder", "--data-root", str(folders["til"]), "--model", tiny]
    assert main([*command, "--max-length", "64"]) == 0
    capsys.readouterr()
    assert main([*command, "--max-length", str(length)]) == 2
    assert re.search(f"max_length.*{words}", capsys.readouterr().err)


def test_a_tokenizer_without_padding_is_refused(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            edit(folder, name, pad_token=None, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(UsageError, match="pad token"):
        load_tokenizer(str(folder))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), pad_token=None)
    with pytest.raises(UsageError, match="pad token"):
        load_tokenizer(tokenizer)


def test_tokens_without_embeddings_are_refused_with_both_numbers(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["laptop", "screen"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"23.*21"):
        load_tokenizer(str(folder))
    model = BertModel.from_pretrained(folder)
    model.resize_token_embeddings(23)
    model.save_pretrained(folder)
    assert len(load_tokenizer(str(folder))) == 23


def test_no_code_of_a_folder_is_run(folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the encoder's nor the tokenizer's, whatever is answered on the terminal."""
    mark = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    maps = {"AutoConfig": "code.Own", "AutoModel": "code.Own"}
    argv = ["run", "--strategy", "ncl", "--model", str(folder), "--tasks", "1", "--out", str(tmp_path / "runs")]
    for name, changes in {
        "config.json": {"auto_map": maps},
        "config.json ": {"auto_map": maps, "model_type": "own"},
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["code.Own", "code.Own"]}},
    }.items():
        before = (folder / name.strip()).read_text()
        edit(folder, name.strip(), **changes)
        assert main(argv) == 2
        assert "auto_map" in capsys.readouterr().err
        if name.startswith("config"):
            with pytest.raises(UsageError, match="auto_map"):
                TextEncoder(str(folder))
        (folder / name.strip()).write_text(before)
    assert not mark.exists()


FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
DTYPES = [*FLOATS, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_fault_gives_the_stored_numbers_or_one_sentence(data: st.DataObject, sound: Path, tmp_path: Path) -> None:
    """Weights that load are those of the file, all of them, in float32; whatever else ends in a `UsageError`."""
    folder = shutil.copytree(sound, tmp_path / "enc", dirs_exist_ok=True)
    tensors = weights(sound)
    keys = sorted(tensors)
    key = data.draw(st.sampled_from(keys), "key")
    fault = data.draw(st.sampled_from(["drop", "rename", "add", "type", "shape", "cut", "append", "config"]), "fault")
    whole = True
    if fault == "drop":
        del tensors[key]
    elif fault == "rename":
        tensors[data.draw(st.text("abc.0", min_size=1, max_size=4), "prefix") + key] = tensors.pop(key)
    elif fault == "add":
        tensors[f"{key}.{data.draw(st.sampled_from(['a', '0', 'lora_A']), 'suffix')}"] = torch.zeros(2)
    elif fault == "type":
        tensors[key] = tensors[key].to(data.draw(st.sampled_from(DTYPES), "type"))
    elif fault == "shape":
        tensors[key] = tensors[key].flatten()[: data.draw(st.integers(0, tensors[key].numel() - 1), "size")]
    store(folder, tensors)
    file = folder / "model.safetensors"
    if fault == "cut":
        whole = False
        os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1), "bytes"))
    elif fault == "append":
        whole = False
        file.write_bytes(file.read_bytes() + data.draw(st.binary(min_size=1, max_size=9), "bytes"))
    elif fault == "config":
        sizes = ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"]
        edit(folder, **{data.draw(st.sampled_from(sizes), "size"): data.draw(st.integers(-1, 99), "value")})
    else:
        edit(folder, num_hidden_layers=2)
    try:
        model = load_encoder(str(folder))
    except UsageError:
        return
    assert whole
    loaded = model.state_dict()
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype in FLOATS
        assert torch.equal(loaded[name], tensor.float()), name


def test_a_fault_ends_the_command_line_with_code_2(folder: Path, tmp_path: Path, capsys: Any) -> None:
    without(QUERY)(folder)
    argv = ["run", "--strategy", "ncl", "--model", str(folder), "--tasks", "1", "--train-size", "8", "--epochs", "1"]
    assert main([*argv, "--max-length", "32", "--out", str(tmp_path / "runs")]) == 2
    assert "query" in capsys.readouterr().err
