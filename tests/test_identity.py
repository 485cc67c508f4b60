"""A run knows its data and its encoder: other contents are another run, another path to the same ones is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nlpcl.benchmarks._files.download import own_files
from nlpcl.cli import main
from nlpcl.config import spec
from nlpcl.config.arguments import Request
from nlpcl.config.resolve import check_repeatable, resolve
from nlpcl.config.spec import RunSpec, spec_id
from nlpcl.errors import UsageError
from nlpcl.options import complete_options, option
from nlpcl.ranges import Since
from nlpcl.records.record import Record
from nlpcl.registry import benchmarks
from nlpcl.runs import run as experiment
from nlpcl.runs.identity import identified
from nlpcl.sweeps.plan import plan
from nlpcl.sweeps.tune import Search, tune
from tests.helpers.messages import refused
from tests.helpers.text_tasks import make_tasks, written

QUICK = {"max_length": 32, "epochs": 1, "backbone_options": {"adapter_size": 4}}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of two tasks, which the test may change."""
    folder = tmp_path / "own"
    folder.mkdir()
    return written(make_tasks((2, 2), n=16), folder)


@pytest.fixture
def encoder(tiny: str, tmp_path: Path) -> Path:
    """A copy of the tiny encoder, which the test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "encoder"))


def spec_on(encoder: Path | str, **more: object) -> RunSpec:
    return resolve(RunSpec.parse({"benchmark": "folder", "strategy": "ncl", "model": str(encoder), **QUICK, **more}))


def asked_for(encoder: Path | str, *assign: str) -> Request:
    """What `spec_on` is, as a command line asks for it."""
    fields = {"benchmark": "folder", "strategy": "ncl", "model": str(encoder), "epochs": "1", "max_length": "32"}
    return Request(fields, assign)


def run(asked: RunSpec, data: Path, out: Path, **more: bool) -> Record:
    return experiment.run(asked, data_root=data, out=out, device="cpu", **more)


def correct(data: Path) -> None:
    """Correct one word of a training text."""
    file = data / "task0" / "train.csv"
    file.write_text(file.read_text().replace("good", "hot", 1))


def save_again(encoder: Path) -> None:
    """Save other weights in place."""
    file = encoder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    save_file({**weights, name: weights[name] + 0.5}, file, metadata={"format": "pt"})


def retokenise(encoder: Path) -> None:
    file = encoder / "tokenizer.json"
    file.write_text(file.read_text().replace('"good"', '"g00d"', 1))


CHANGES: list[Callable[[Path, Path], None]] = [
    lambda data, encoder: correct(data),
    lambda data, encoder: (data / "task1" / "valid.csv").unlink(),
    lambda data, encoder: save_again(encoder),
    lambda data, encoder: retokenise(encoder),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_contents_are_another_run(change: Callable[[Path, Path], None], own: Path, encoder: Path) -> None:
    before = identified(spec_on(encoder), own)
    change(own, encoder)
    after = identified(spec_on(encoder), own)
    assert before.id != after.id
    with pytest.raises(UsageError, match="sha256"):
        identified(before, own)


def test_spellings_of_one_folder_are_one_run(
    own: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(encoder)
    elsewhere = shutil.copytree(encoder, tmp_path / "elsewhere" / "other-name")
    names = [encoder, "encoder", "./encoder/", "~/encoder", "link", elsewhere]
    roots = [own, "own", "own/../own", shutil.copytree(own, tmp_path / "elsewhere" / "data")]
    assert len({identified(spec_on(name), root).id for name in names for root in roots}) == 1
    monkeypatch.setenv("NLPCL_DATA", str(own))
    assert identified(spec_on(encoder), None).id == identified(spec_on(encoder), own).id


def test_what_a_name_says_needs_no_digest(data_root: Path) -> None:
    asc = resolve(RunSpec.parse({"benchmark": "asc", "strategy": "ncl"}))
    assert identified(asc, data_root) is asc
    mnist = resolve(RunSpec.parse({"benchmark": "SplitMNIST", "strategy": "ncl"}))
    assert identified(mnist, data_root) is mnist  # packed anew, but the published files
    part = resolve(RunSpec.parse({"benchmark": "SplitCIFAR10", "strategy": "ncl"}))
    assert identified(part, data_root).data_sha256 is not None  # a part of the set


@pytest.mark.parametrize(
    ("benchmark", "files"),
    [
        ("nli", ("nli/mnli_train.tsv", "nli/mnli_val.tsv")),
        ("ssc", ("ssc/a.txt",)),
        ("newsgroups", ("20newsgroups/train.jsonl", "20newsgroups/test.jsonl")),
        ("fashionmnist", ("fashion-mnist/train-images-idx3-ubyte",)),
        ("SplitCIFAR100", ("cifar100/train/apple/1.png", "cifar100/cifar-100-binary.tar.gz")),
        ("SplitTinyImageNet", ("tiny-imagenet-200/train/n01443537/images/1.JPEG", "tiny-imagenet-200/wnids.txt")),
        ("CORe50", ("core50_32x32/s1/o1/1.png",)),
        ("celeba", ("celeba/img_align_celeba/1.jpg",)),
        ("vlcs", ("vlcs/sun/bird/1.jpg",)),
    ],
)
def test_streams_read_from_files_that_nobody_published_know_them(
    benchmark: str, files: tuple[str, ...], tmp_path: Path
) -> None:
    """Whatever file of a stream changes under a data root, it is seen."""
    strategy = {"strategy": "ncl", "scenario": benchmarks.get(benchmark).scenarios[0], "benchmark": benchmark}
    asked, seen = resolve(RunSpec.parse(strategy)), set()
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for content in (b"one", b"two"):
            path.write_bytes(content)
            seen.add(identified(asked, tmp_path).data_sha256)
        path.write_bytes(b"one")
    assert len(seen) == 2 * len(files) and None not in seen


def test_a_file_and_its_gzipped_copy_are_one(tmp_path: Path) -> None:
    import gzip

    found = own_files("a.txt", "a.txt.gz")
    (tmp_path / "a.txt").write_bytes(b"x")
    plain = found(tmp_path, None)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x"))
    assert found(tmp_path, None) == plain != {}
    assert own_files("a.txt.gz", published=plain.values())(tmp_path, None) == {}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_other_data_is_overwritten_or_taken_for_done(
    change: Callable[[Path, Path], None], own: Path, encoder: Path, tmp_path: Path
) -> None:
    asked = asked_for(encoder, "adapter_size=4")
    (cell,) = plan([asked], tmp_path / "runs", data_root=str(own)).cells
    first = run(asked.spec(), own, tmp_path / "runs")
    assert first.id == cell.id and first.run_spec() == cell.spec
    assert plan([asked], tmp_path / "runs", data_root=str(own)).done == {cell.id}
    before = (tmp_path / "runs" / first.id / "record.json").read_bytes()
    change(own, encoder)
    assert plan([asked], tmp_path / "runs", data_root=str(own)).done == set()
    second = run(asked.spec(), own, tmp_path / "runs")
    assert second.id != first.id and second.data != first.data
    assert (tmp_path / "runs" / first.id / "record.json").read_bytes() == before


@pytest.mark.parametrize("change", CHANGES)
def test_no_checkpoint_of_other_data_is_taken_up(
    change: Callable[[Path, Path], None], own: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.helpers.runs import Killed, killed_at

    asked = spec_on(encoder)
    with monkeypatch.context() as dying:
        killed_at((1, 0, "after"), dying)
        with pytest.raises(Killed):
            run(asked, own, tmp_path / "runs")
    change(own, encoder)
    record = run(spec_on(encoder), own, tmp_path / "runs")
    assert record.measured.resumed == 0 and record.status == "ok"
    assert record.matrices == run(spec_on(encoder), own, tmp_path / "fresh").matrices


def hub(folder: Path, tiny: str, commit: str) -> None:
    """Put a copy of the tiny encoder where the model hub's cache would have it, as this commit of `some/encoder`."""
    place = folder / "models--some--encoder"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(tiny, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


def test_an_encoder_of_the_hub_that_was_changed_there_is_seen(
    tiny: str, encoder: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name stays and so does the id, so the record of the one before is compared before it is overwritten."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    hub(cache, tiny, "a" * 40)
    asked = spec_on("some/encoder")
    record = run(asked, own, tmp_path / "runs")
    assert record.data["encoder"]["revision"] == "a" * 40 and "model_sha256" not in record.spec
    path = tmp_path / "runs" / record.id / "record.json"
    before = path.read_bytes()
    studied = Search.asked(asked_for("some/encoder", "adapter_size=4,8"), "first-task").name(str(own))
    save_again(encoder)
    hub(cache, str(encoder), "b" * 40)
    with pytest.raises(UsageError, match="encoder"):
        run(asked, own, tmp_path / "runs")
    with pytest.raises(UsageError, match="encoder"):
        plan([asked_for("some/encoder", "adapter_size=4")], tmp_path / "runs", data_root=str(own))
    assert path.read_bytes() == before
    assert Search.asked(asked_for("some/encoder", "adapter_size=4,8"), "first-task").name(str(own)) != studied
    assert run(asked, own, tmp_path / "runs", fresh=True).data["encoder"]["revision"] == "b" * 40


def test_a_study_of_other_data_is_another(own: Path, encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search, trials = Search.asked(asked_for(encoder, "adapter_size=4,8"), "first-task"), []
    for _ in range(2):
        tune(search, tmp_path / "study.db", 1, trials.append, data_root=str(own), device="cpu")
    assert len(trials) == 1  # the second call found it done
    correct(own)
    tune(search, tmp_path / "study.db", 1, trials.append, data_root=str(own), device="cpu")
    save_again(encoder)
    tune(search, tmp_path / "study.db", 1, trials.append, data_root=str(own), device="cpu")
    assert len(trials) == 3


def test_a_record_is_repeated_from_the_same_files_only(
    own: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(spec_on(encoder), own, tmp_path / "runs")
    file = tmp_path / "runs" / record.id / "record.json"
    moved = encoder.rename(tmp_path / "moved")
    again = ["run", "--from", str(file), "--data-root", str(own), "--out", str(tmp_path / "again"), "--device", "cpu"]
    assert main(again) == 2 and "--model" in capsys.readouterr().err
    assert main([*again, "--model", str(moved), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["id"] == record.id and answer["matrices"] == record.matrices.model_dump()
    correct(own)
    assert main([*again, "--model", str(moved)]) == 2 and "data_sha256" in capsys.readouterr().err
    assert main([*again, "--model", str(moved), "--seed", "3"]) == 2 and "--seed" in capsys.readouterr().err


def test_an_older_record_is_repeated_from_the_same_files_only(
    own: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record of version 1 has no digest, but it names its files."""
    new = run(spec_on(encoder), own, tmp_path / "runs")
    old = {name: value for name, value in new.spec.items() if not name.endswith("sha256")} | {"spec_version": 1}
    file = tmp_path / "old.json"
    new.model_copy(update={"spec": old}).save(file)
    again = ["run", "--from", str(file), "--data-root", str(own), "--out", str(tmp_path / "again"), "--device", "cpu"]
    assert main([*again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matrices"] == new.matrices.model_dump()
    correct(own)
    assert main(again) == 2 and "task0/train.csv" in capsys.readouterr().err
    assert len(list((tmp_path / "again").glob("*/record.json"))) == 1


def test_the_training_subset_is_drawn_anew_for_every_seed(own: Path, encoder: Path) -> None:
    def subset(**more: object) -> torch.Tensor:
        asked = spec_on(encoder, train_size=5, **more)
        benchmark, _ = experiment.setup(asked, data_root=own, device=torch.device("cpu"))
        return torch.stack([x for x, *_ in benchmark.train_stream[0].dataset])

    drawn = [subset(seed=seed) for seed in range(4)]
    assert not all(torch.equal(drawn[0], other) for other in drawn[1:])
    assert all(torch.equal(drawn[0], subset(seed=seed, data_seed=0)) for seed in range(4))
    assert spec_on(encoder, train_size=5, seed=3).data_seed == 3
    assert spec_on(encoder, seed=3).data_seed == 0  # nothing is drawn


def test_a_spec_from_before_a_field_came_stays_as_it_is() -> None:
    """A default that came later is neither hashed nor asked of it when it is checked."""
    old = resolve(RunSpec.parse({"strategy": "ncl", "train_size": 5, "seed": 3, "data_seed": 0}))
    assert old.spec_version == 1 and "data_seed" not in old.model_dump(exclude_unset=True)
    check_repeatable(old)
    new = resolve(RunSpec.parse({"strategy": "ncl", "train_size": 5, "seed": 3}))
    assert (new.spec_version, new.data_seed) == (2, 3) and new.id != old.id
    check_repeatable(new)


def test_an_option_that_came_later_is_stored_only_where_it_says_something() -> None:
    from nlpcl.registry import strategies

    before = resolve(RunSpec.parse({"strategy": "l2"}))
    entry = strategies.get("l2")

    class Later(entry.options):  # type: ignore[misc, name-defined]
        strength: Annotated[float, Since(2)] = option(0.25, "an option that came later")

    with strategies.replacing(replace(entry, options=Later)):
        after = resolve(RunSpec.parse({"strategy": "l2"}))
        assert after.id == before.id and after.spec_version == 1
        assert complete_options(strategies.get("l2"), after.options)["strength"] == 0.25
        check_repeatable(before)
        chosen = resolve(RunSpec.parse({"strategy": "l2", "options": {"strength": 0.5}}))
        assert chosen.spec_version == 2 and chosen.options["strength"] == 0.5
        check_repeatable(chosen)


def test_what_was_renamed_keeps_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    today = resolve(RunSpec.parse({"strategy": "l2"}))
    stored = today.model_dump(mode="json", exclude_unset=True)
    (option, value), *_ = stored["options"].items()
    stored["first_name"] = stored.pop("weight_decay")
    stored["options"] = {"old_name": value, **{n: v for n, v in stored["options"].items() if n != option}}
    monkeypatch.setattr(spec, "RENAMED", {"first_name": "weight_decay", "l2.old_name": f"l2.{option}"})
    read = RunSpec.parse(stored)
    assert read == today
    assert read.id == spec_id(stored) == spec_id(read.model_dump(mode="json", exclude_unset=True))


def test_a_file_of_word_vectors_is_known_by_its_contents(models: dict[str, str], own: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(models["w2v"], tmp_path / "vectors.txt"))
    one = identified(spec_on(models["w2v"], backbone="w2v", backbone_options={}), own)
    assert identified(spec_on(copy, backbone="w2v", backbone_options={}), own).id == one.id
    copy.write_text(copy.read_text().replace("good", "fine", 1))
    assert identified(spec_on(copy, backbone="w2v", backbone_options={}), own).id != one.id


def test_a_record_of_a_local_encoder_is_not_filed(tmp_path: Path) -> None:
    from nlpcl.leaderboard.submit import add
    from tests.helpers.records import record_of

    record = record_of("ncl", spec={"model": "sub/encoder", "model_sha256": "0" * 64, "spec_version": 2})
    record.save(tmp_path / "record.json")
    with pytest.raises(UsageError, match="model"):
        add([tmp_path / "record.json"], tmp_path / "results")


def test_runs_on_one_encoder_are_compared_wherever_it_lay(tmp_path: Path) -> None:
    from nlpcl.leaderboard.compare import compare
    from nlpcl.leaderboard.files import read_runs, select_runs
    from tests.helpers.records import record_of

    for name, digest in (("ncl", "0"), ("ewc", "0"), ("hat", "1")):
        for seed in range(2):
            local = {"model": f"folder-of-{name}", "model_sha256": digest * 64, "spec_version": 2}
            record = record_of(name, seed=seed, spec=local)
            record.save(tmp_path / record.id / "record.json")
    pool = read_runs(tmp_path)
    assert len(compare(select_runs(["ncl", "ewc"], pool)).blocks) == 2
    with pytest.raises(UsageError, match="model"):
        compare(select_runs(["ncl", "hat"], pool))


def test_a_preset_of_a_local_encoder_fits_wherever_it_lies(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Search.asked(asked_for(encoder, "adapter_size=4,8"), "first-task").preset(["8"], "tuned")
    preset.save(tmp_path / "preset.json")
    monkeypatch.chdir(encoder.parent)
    for name in ("encoder", "./encoder/", encoder):
        asked = replace(asked_for(name), presets=(tmp_path / "preset.json",))
        assert (asked.spec().backbone_options or {})["adapter_size"] == 8
    save_again(encoder)
    with refused("model_sha256"):
        replace(asked_for(encoder), presets=(tmp_path / "preset.json",)).spec()


def test_data_that_change_while_they_are_read_are_seen(
    own: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*args: Any, **more: Any) -> Any:
        found = build(*args, **more)
        correct(own)
        return found

    build = experiment.setup
    monkeypatch.setattr(experiment, "setup", prepared)
    with refused("data_sha256"):
        run(spec_on(encoder), own, tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("record.json"))
