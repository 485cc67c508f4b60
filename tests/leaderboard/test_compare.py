"""`nlpcl compare`: what is paired, what is refused, and what is shown."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpcl.cli import main
from nlpcl.config.spec import RunSpec
from nlpcl.errors import UsageError
from nlpcl.leaderboard import report
from nlpcl.leaderboard.compare import HIGHER_IS_BETTER, METHOD, compare
from nlpcl.leaderboard.files import Run, differing, flattened, read_runs, select_runs
from nlpcl.leaderboard.readme import markdown_tables
from nlpcl.leaderboard.rows import gather, load
from nlpcl.leaderboard.site import build
from nlpcl.records.metrics import derive
from tests.helpers.comparisons import compared, file
from tests.helpers.messages import mentions, refused
from tests.helpers.records import flat, record_of, triangle

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [(order, seed) for order in range(3) for seed in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ncl, ewc and hat on nine orders and seeds: ewc is always better than ncl, hat now and then."""
    rng = np.random.default_rng(0)
    for order, seed in BLOCKS:
        base = float(rng.uniform(0.5, 0.6))
        for strategy, gain in (
            ("ncl", 0.0),
            ("ewc", float(rng.uniform(0.02, 0.1))),
            ("hat", float(rng.normal(0, 0.05))),
        ):
            file(tmp_path, strategy, order, seed, base + gain)
    return tmp_path


def test_differences_are_paired_over_order_and_seed(folder: Path) -> None:
    found = compared(folder, "ewc", "ncl")
    scores = {
        (run.spec["strategy"], run.spec["order"], run.spec["seed"]): run.record.matrices.accuracy[-1][0]
        for run in read_runs(folder)
    }
    expected = [scores[("ewc", *block)] - scores[("ncl", *block)] for block in BLOCKS]
    (pair,) = found.pairs
    assert pair.difference == pytest.approx(sum(expected) / 9)
    assert pair.interval is not None and min(expected) < pair.interval[0] < pair.difference < pair.interval[1]
    assert pair.wilcoxon_p == pair.holm_p == 2 / 2**9 and pair.better == "ewc"
    assert found.ranking is None and len(found.notes) == 1 and mentions(found.notes[0], "3 subsets")
    assert compared(folder, "ncl", "ewc").pairs[0].difference == pytest.approx(-pair.difference)


def test_three_methods_have_ranks_and_corrected_p(folder: Path) -> None:
    found = compared(folder, "ncl", "ewc", "hat")
    assert [(pair.first, pair.second) for pair in found.pairs] == [("ncl", "ewc"), ("ncl", "hat"), ("ewc", "hat")]
    assert found.pairs[0].holm_p == pytest.approx(3 * 2 / 2**9) and found.pairs[0].better == "ewc"
    assert found.ranking is not None
    ranks = list(found.ranking.average_ranks.values())
    assert sum(ranks) == pytest.approx(6)
    assert np.argmin(ranks) == found.values.mean(axis=0).argmax()
    assert any("rough" in note for note in found.notes)


def test_lower_forgetting_is_better(tmp_path: Path) -> None:
    for seed in range(6):
        kept, lost = 0.01 * seed, 0.01 * seed + 0.3
        for strategy, loss in (("ncl", lost), ("ewc", kept)):
            file(tmp_path, strategy, 0, seed, triangle([0.8], [0.8, 0.8], [0.8 - loss, 0.8 - loss, 0.8]))
    found = compared(tmp_path, "ncl", "ewc", metric="forgetting")
    assert found.pairs[0].difference == pytest.approx(0.3) and found.pairs[0].better == "ewc"
    assert compared(tmp_path, "ncl", "ewc", metric="bwt").pairs[0].difference == pytest.approx(-0.3)
    assert compared(tmp_path, "ncl", "ewc", metric="bwt").pairs[0].better == "ewc"


def test_the_better_method_needs_mean_and_ranks_to_agree(tmp_path: Path) -> None:
    """Eleven small gains and one large loss: significant by ranks, and yet worse on average."""
    for seed in range(12):
        file(tmp_path, "ncl", 0, seed, 0.7)
        file(tmp_path, "ewc", 0, seed, 0.1 if seed == 11 else 0.71 + 0.001 * seed)
    (pair,) = compared(tmp_path, "ewc", "ncl").pairs
    assert pair.wilcoxon_p < 0.05 and pair.difference < 0 and pair.better is None


def test_every_derived_metric_has_a_direction() -> None:
    assert set(HIGHER_IS_BETTER) == set(derive(flat(0.5), flat(0.5)))
    assert set(METHOD) <= set(RunSpec.model_fields)


CHANGES = [
    ("benchmark", {"benchmark": "asc"}),
    ("scenario", {"scenario": "dil"}),
    ("tasks", {"tasks": 5}),
    ("train_size", {"train_size": 21}),
    ("epochs", {"epochs": 9}),
    ("epochs.hotel", {"epochs": {"*": 5, "hotel": 1}}),
    ("train_batch_size", {"train_batch_size": 8}),
    ("backbone", {"backbone": "bert"}),
    ("backbone_options.adapter_size", {"backbone_options": {"adapter_size": 32, "dropout": 0.1, "pooling": "mean"}}),
    ("benchmark_options.more", {"benchmark_options": {"more": 1}}),
    ("model", {"model": "roberta-base"}),
    ("max_length", {"max_length": 32}),
    ("padding", {"padding": "fixed"}),
    ("precision", {"precision": "bf16"}),
    ("eval", {"eval": "full"}),
]


@pytest.mark.parametrize(("field", "spec"), CHANGES)
def test_another_protocol_is_refused_by_name(tmp_path: Path, field: str, spec: dict[str, Any]) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc", spec=spec)
    with refused(f"ncl ewc {field} --allow"):
        compared(tmp_path, "ncl", "ewc")
    assert compared(tmp_path, "ncl", "ewc", allow=[field.partition(".")[0]]).blocks == [("0", 0)]


def test_the_sentence_holds_every_field_with_both_values(tmp_path: Path) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc", spec={"train_size": 7, "eval": "final"})
    with refused("eval seen final train_size 20 7 --allow"):
        compared(tmp_path, "ncl", "ewc")


@pytest.mark.parametrize(
    ("name", "value"),
    [("encoder", {"name": "minilm", "model.safetensors": "ffff"}), ("files", {"a.csv": "00"}), ("tasks", [])],
)
def test_other_data_are_another_protocol(tmp_path: Path, name: str, value: Any) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc", data={**record_of().data, name: value})
    with pytest.raises(UsageError, match=rf"data\.{name}"):
        compared(tmp_path, "ncl", "ewc")
    assert compared(tmp_path, "ncl", "ewc", allow=[f"data.{name}"]).blocks == [("0", 0)]


def test_a_methods_own_settings_may_differ(tmp_path: Path) -> None:
    own = {"learning_rate": 0.1, "weight_decay": 0.5, "schedule": "constant", "warmup": 0.0, "clip_norm": None}
    file(tmp_path, "ncl")
    file(tmp_path, "ewc", spec=own)
    assert compared(tmp_path, "ncl", "ewc").blocks == [("0", 0)]


def test_a_field_younger_than_a_record_has_its_default(tmp_path: Path) -> None:
    file(tmp_path, "ncl")
    spec = dict(record_of("ewc").spec)
    del spec["clip_norm"], spec["train_size"]
    record = record_of("ewc").model_copy(update={"spec": spec})
    record.save(tmp_path / "old" / "record.json")
    with refused("train_size 20 null"):
        compared(tmp_path, "ncl", "ewc")


def test_what_does_not_count_is_told(tmp_path: Path) -> None:
    for order in range(7):
        file(tmp_path, "ncl", order, 0, 0.5)
        if order != 3:
            file(tmp_path, "ewc", order, 0, 0.6)
    failed = record_of("ewc", 3, 0, status="failed", error="out of memory")
    failed.save(tmp_path / failed.id / "failed.json")
    found = compared(tmp_path, "ncl", "ewc")
    assert found.blocks == [(str(order), 0) for order in (0, 1, 2, 4, 5, 6)]
    absent, failures, draw = found.notes
    assert mentions(absent, "ewc 3 0") and mentions(failures, "ewc 1 failed") and mentions(draw, "subset")
    assert found.pairs[0].interval == pytest.approx((-0.1, -0.1))


def test_too_few_runs_are_said_to_be(tmp_path: Path) -> None:
    for seed in range(5):
        for i, strategy in enumerate(("ncl", "ewc", "hat")):
            file(tmp_path, strategy, 0, seed, 0.1 * i + 0.01 * seed)
    found = compared(tmp_path, "ncl", "hat")
    assert found.pairs[0].wilcoxon_p == 0.0625 and found.pairs[0].better is None
    assert len(found.notes) == 2 and mentions(found.notes[0], "0.0625 6")
    notes = compared(tmp_path, "ncl", "ewc", "hat").notes
    assert mentions(notes[0], "3 0.188 7")


def test_whether_the_spread_contains_the_draw_of_the_subset(tmp_path: Path) -> None:
    """As a record tells it: `train_size`, and one `data_seed` for all or each seed its own; old records have none."""
    specs = {
        "whole": [{"train_size": None, "data_seed": 0}] * 3,
        "same": [{"train_size": 20, "data_seed": 0}] * 3,
        "drawn": [{"train_size": 20, "data_seed": seed} for seed in range(3)],
    }
    for name, chosen in specs.items():
        for seed, spec in enumerate(chosen):
            for strategy in ("ncl", "ewc"):
                file(tmp_path / name, strategy, 0, seed, 0.1 * seed, spec=spec)
    notes = {name: compared(tmp_path / name, "ncl", "ewc").notes[1:] for name in specs}  # the first: too few
    assert notes["whole"] == [] and "not include" in notes["same"][0] and mentions(notes["drawn"][0], "includes 3")
    rows = {name: gather(load(tmp_path / name)[0]) for name in specs}
    for name, found in rows.items():
        assert len(found) == 2 and [row.draw for row in found] == (notes[name] or [""]) * 2
        text = markdown_tables(found, {})
        assert all(line in text for line in notes[name]) and ("subset" in text) == (name != "whole")
        content = build(found, {}, tmp_path / "site" / name, tmp_path / name)
        assert content is None
        details = (tmp_path / "site" / name / "details" / "0000.js").read_text(encoding="utf-8")
        assert ("its draw" in details or "the draw" in details) == (name != "whole")
    single = compared(tmp_path / "same", "ncl", "ewc", where={"seed": "1"})
    assert not any("subset" in note for note in single.notes)  # one run has no spread


def test_runs_of_another_subset_are_not_paired(tmp_path: Path) -> None:
    for seed in range(3):
        file(tmp_path, "ncl", 0, seed, spec={"data_seed": 0})
        file(tmp_path, "ewc", 0, seed, spec={"data_seed": seed})
    with refused("data_seed --allow"):
        compared(tmp_path, "ncl", "ewc")
    assert len(compared(tmp_path, "ncl", "ewc", allow=["data_seed"]).blocks) == 3


def test_a_single_run_of_each(tmp_path: Path) -> None:
    for i, strategy in enumerate(("ncl", "ewc", "hat")):
        file(tmp_path, strategy, matrix=0.5 + 0.1 * i)
    found = compared(tmp_path, "ncl", "ewc", "hat")
    assert found.ranking is None and found.pairs[0].interval is None and found.pairs[0].wilcoxon_p == 1
    assert any(mentions(note, "ranking") for note in found.notes)
    for write in (report.markdown, report.latex, report.as_csv, report.as_json):
        assert write(found)


def test_nothing_in_common(tmp_path: Path) -> None:
    file(tmp_path, "ncl", 0)
    file(tmp_path, "ewc", ["hotel", "laptop", "restaurant"])
    with refused("ncl ewc 0 hotel"):
        compared(tmp_path, "ncl", "ewc")
    file(tmp_path, "hat", 1, spec={"train_size": 7})
    with pytest.raises(UsageError, match="train_size"):
        compared(tmp_path, "ncl", "hat")


def test_a_method_is_one_setting(tmp_path: Path) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc")
    file(tmp_path, "ewc", seed=1, spec={"learning_rate": 0.25})
    with refused("ewc 0.25 --where learning_rate"):
        compared(tmp_path, "ncl", "ewc")
    rate = json.dumps(record_of("ewc").spec["learning_rate"])
    assert compared(tmp_path, "ncl", "ewc", where={"learning_rate": rate}).blocks == [("0", 0)]
    with refused("ncl learning_rate 7"):
        compared(tmp_path, "ncl", "ewc", where={"learning_rate": "7"})
    file(tmp_path, "hat", spec={"epochs": {"*": 3}})
    file(tmp_path, "hat", seed=1, spec={"epochs": 4})
    with refused("hat --where epochs"):
        compared(tmp_path, "ncl", "hat")
    own = flattened({"options": record_of("ewc").spec["options"]})
    name, value = next(iter(own.items()))
    with refused(f"ncl {name}"):
        compared(tmp_path, "ncl", "ewc", where={name: "none such"})
    assert value != "none such"


def test_how_methods_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = file(tmp_path / "mine", "derpp", matrix=0.6)
    file(tmp_path / "runs", "derpp", spec={"backbone": "bert"})
    file(tmp_path / "runs", "derpp")
    record_of("ncl").save(tmp_path / "runs" / f"{record_of('ncl').id}.json")
    (tmp_path / "runs" / "study.json").write_text("{}")
    pool = read_runs(tmp_path / "runs")
    assert len(pool) == 3
    found = select_runs(["DER++@bert_adapter", "mine", "ncl", "derpp"], pool)
    assert [len(runs) for runs in found.values()] == [1, 1, 1, 2]
    assert found["mine"][0].path.samefile(one) and select_runs([str(one), "ncl"], pool)[str(one)][0].path == one
    for same in (["ncl", "NCL"], ["ncl", "ncl@bert_adapter"], ["mine", str(one)]):
        with refused(same[1]):
            select_runs(same, pool)
    with refused("derp derpp"):
        select_runs(["derp", "ncl"], pool)
    with refused("gone/record.json"):
        select_runs(["ncl", "gone/record.json"], pool)
    with refused("derpp backbone bert"):
        compare(select_runs(["ncl", "derpp"], pool))
    for names in (["ncl"], ["ncl", "ncl"]):
        with refused("two"):
            select_runs(names, pool)
    (tmp_path / "empty").mkdir()
    with refused("empty"):
        select_runs(["ncl", "empty"], pool)


def test_different_backbones_on_purpose(tmp_path: Path) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ncl", matrix=0.6, spec={"backbone": "bert"})
    names = ("ncl@bert", "ncl@bert_adapter")
    with refused("backbone bert bert_adapter"):
        compared(tmp_path, *names)
    assert compared(tmp_path, *names, allow=["backbone"]).pairs[0].difference == pytest.approx(0.1)
    with refused("--allow backbones backbone"):
        compared(tmp_path, *names, allow=["backbones"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"metric": "accuracy"}, "metric accuracy average_accuracy"),
        ({"metric": "fwt_gem"}, "ncl fwt_gem"),
        ({"alpha": 1.5}, "alpha 1 1.5"),
        ({"alpha": 1e-300}, "alpha 1e-06 1e-300"),
    ],
)
def test_questions_without_an_answer(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc")
    with refused(words):
        compared(tmp_path, "ncl", "ewc", **more)


def test_only_failed_runs_and_records_that_cannot_be_repeated(tmp_path: Path) -> None:
    file(tmp_path, "ncl")
    file(tmp_path, "ewc", status="failed", error="x")
    with refused("ewc failed"):
        compared(tmp_path, "ncl", "ewc")
    record_of(spec={"spec_version": None}).save(tmp_path / "half" / "record.json")
    with refused("half/record.json spec_version"):
        read_runs(tmp_path)


def test_differing_is_exact() -> None:
    a, b = flattened({"x": {"y": 1, "z": {}}, "u": [1]}), flattened({"x": {"y": 2}, "u": [1], "w": "1"})
    assert differing(a, b) == [("w", "(absent)", "1"), ("x.y", "1", "2")]
    assert differing(a, b, ["x"]) == [("w", "(absent)", "1")] and differing(a, a) == []


def test_tables(folder: Path) -> None:
    found = compared(folder, "ncl", "ewc", "hat")
    text = report.markdown(found)
    assert f"| ewc | 9 | {100 * found.values[:, 1].mean():.2f} |" in text
    assert f"| {100 * found.values[:, 1].std(ddof=1):.2f} |" in text and "Friedman" in text
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 3 + 2 + 3
    lines = list(csv.DictReader(io.StringIO(report.as_csv(found))))
    whole = report.as_json(found)
    for line, pair, known in zip(lines, whole["pairs"], found.pairs, strict=True):
        assert float(line["difference"]) == pair["difference"] == known.difference
        assert float(line["low"]) == known.interval[0] if known.interval else line["low"] == ""
        assert float(line["nemenyi_p"]) == pair["nemenyi_p"] <= 1
    assert whole["values"]["hat"] == pytest.approx(list(found.values[:, 2]))
    assert json.loads(json.dumps(whole, allow_nan=False))["ranking"]["average_ranks"].keys() == {"ncl", "ewc", "hat"}


def test_names_cannot_break_a_table(folder: Path) -> None:
    runs = select_runs(["ncl", "ewc"], read_runs(folder))
    found = compare({r"a_b|c\&%": runs["ncl"], "ewc": runs["ewc"]})
    assert r"a\_b&#124;c&#92;&amp;%" in report.markdown(found)
    assert r"a\_b|c\textbackslash{}\&\%" in report.latex(found)
    rows = [line for line in report.latex(found).splitlines() if line.endswith(r"\\")]
    assert len(rows) == 5 and all(line.count(" & ") == rows[0].count(" & ") for line in rows[:3])


def test_the_command(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    argv = ["compare", "ncl", "ewc", "hat", "--results", str(folder)]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "average accuracy, %" in shown and "ewc − hat" in shown
    assert main([*argv, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main([*argv, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == whole
    for form, sign in (("markdown", "| --- |"), ("latex", r"\toprule"), ("csv", "metric,first,second")):
        assert main([*argv, "--format", form, "--metric", "macro_f1"]) == 0
        assert sign in capsys.readouterr().out
    assert main([*argv, "--where", "order=1"]) == 0
    assert mentions(capsys.readouterr().out, "too few 3 7")
    assert main([*argv, "--json", "--alpha", "1e-6"]) == 0
    assert "Infinity" not in capsys.readouterr().out
    for wrong in (
        ["--where", "order"],
        ["x" * 5000],
        ["--results", str(folder / "absent")],
        ["--metric", "x"],
        ["--format", "html"],
    ):
        assert main([*argv, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_diagram(folder: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("scikit_posthocs")
    argv = ["compare", "ncl", "ewc", "hat", "--results", str(folder), "--plot"]
    for name, start in (("cd.png", b"\x89PNG"), ("new/cd.svg", b"<?xml")):
        assert main([*argv, str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    runs = select_runs(["ncl", "ewc", "hat"], read_runs(folder))
    report.plot_ranks(compare({"ncl": runs["ncl"], "ewc": runs["ewc"], r"a $\x$": runs["hat"]}), tmp_path / "no.pdf")
    assert main([*argv, str(tmp_path / "cd.txt")]) == 2
    (tmp_path / "file").write_text("x")
    assert main([*argv, str(tmp_path / "file" / "cd.png")]) == 2
    assert main(["compare", "ncl", "ewc", "--results", str(folder), "--plot", str(tmp_path / "two.png")]) == 2
    assert mentions(capsys.readouterr().err, "--plot")


def test_the_script_is_the_command_and_loads_no_torch(folder: Path) -> None:
    argv = ["compare", "ncl", "ewc", "--results", str(folder), "--format", "csv"]
    code = f"import sys; from nlpcl.cli import main; assert main({argv!r}) == 0; assert 'torch' not in sys.modules"
    plain = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert plain.returncode == 0, plain.stderr
    script = subprocess.run(
        [sys.executable, "leaderboard/compare.py", *argv[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert script.stdout == plain.stdout != ""


def test_runs_are_read_with_their_defaults(tmp_path: Path) -> None:
    run = Run.load(file(tmp_path, "ncl", "seed:3", 4))
    assert run.block == ("seed:3", 4) and run.spec["backbone_options.adapter_size"] == 64 and "options" not in run.spec
