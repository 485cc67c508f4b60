"""The leaderboard's files: what they show, and what of a record they show escaped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from nlpcl.cli import main
from nlpcl.leaderboard import figures
from nlpcl.leaderboard.cells import seconds_as_text
from nlpcl.leaderboard.published import OURS, read_published
from nlpcl.leaderboard.readme import BEGIN, END, markdown_tables, update_readme
from nlpcl.leaderboard.rows import Row, gather, load
from nlpcl.leaderboard.site import build, overview
from nlpcl.leaderboard.submit import place_of
from nlpcl.records.record import Record
from tests.helpers.messages import mentions, refused
from tests.helpers.pages import hostile
from tests.helpers.records import TASKS, file_many, record_of

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = OURS
OTHERS = ["page.css", "page.js", "plotly.js", "rows.js"]
HAND = [[0.9, None, None], [0.8, 0.7, None], [0.85, 0.6, 0.5]]


class Tags(HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def site(results: Path, out: Path, *records: Record) -> dict[str, Any]:
    """Build a site of some records; return what its scripts hold."""
    for record in records:
        record.save(results / place_of(record))
    build(gather(load(results)[0]), read_published(PUBLISHED), out, results)
    return content_of(out)


def content_of(out: Path) -> dict[str, Any]:
    head, _, rest = (out / "rows.js").read_text(encoding="utf-8").partition(" = ")
    assert head == "var leaderboard"
    content: dict[str, Any] = json.loads(rest.rstrip(";\n"))
    for path in sorted((out / "details").glob("*.js")):
        name, _, rest = path.read_text(encoding="utf-8").partition(" = ")
        assert name == f'leaderboard.shards["details/{path.name}"]'
        content["shards"][f"details/{path.name}"] = json.loads(rest.rstrip(";\n"))
    return content


def strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from (key, *strings(value))
    elif isinstance(content, list):
        for value in content:
            yield from strings(value)


def all_rows(results: Path) -> list[Row]:
    return gather(load(results)[0])


def test_every_row_has_its_details_in_the_shard_it_names(tmp_path: Path) -> None:
    number = file_many(
        tmp_path / "results", ["ncl", "ewc", "hat"], [{"benchmark": "asc"}, {"benchmark": "dsc"}], orders=5, seeds=4
    )
    out = tmp_path / "site"
    content = site(tmp_path / "results", out)
    assert len(content["rows"]) == 6 and len(content["shards"]) == 4  # at most 40 runs each, never two protocols
    runs = 0
    for row in content["rows"]:
        shard = content["shards"][row["shard"]]
        detail = shard["rows"][row["id"]]
        runs += len(detail["runs"])
        assert row["runs"]["text"] == str(len(detail["runs"])) == "20"
        assert dict(detail["scores"])["average accuracy, %"] == row["accuracy"]["text"]
        if row["published"]["text"]:
            assert dict(detail["scores"])["published average accuracy, %"] == row["published"]["text"]
            assert any(row["published"]["hint"] in note for note in detail["notes"])
            assert any(row["difference"]["hint"] in note for note in detail["notes"])
        points = {point for trace in shard["cost"]["data"] for point in trace["ids"]}
        same = {other["id"] for other in content["rows"] if other["benchmark"] == row["benchmark"]}
        assert points == same and row["id"] in points
        for run in detail["runs"]:
            command, path = run["command"].rsplit(" ", 1)
            stored = Record.load(tmp_path.parent / path)
            assert command == "nlpcl run --from" and path.startswith(f"{tmp_path.name}/results/")
            assert run["name"] == f"order {stored.spec['order']}, seed {stored.spec['seed']}"
            assert stored.spec["strategy"] == row["method"]
    assert runs == number


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    site(tmp_path / "results", tmp_path / "site", record_of())
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    used = [a.get("src") or a.get("href") for tag, a in Tags(page).found if tag in ("script", "link", "img")]
    used.remove("data:,")  # the icon, which is none
    assert len(used) == 5 and all(name and (tmp_path / "site" / name).is_file() for name in used)
    assert not re.search(r"https?://", page)
    assert not [a for tag, a in Tags(page).found if tag == "script" and "src" not in a], "no script inside the page"


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    file_many(tmp_path / "results", ["ncl", "hat"], [{"benchmark": "asc"}], orders=2, seeds=2)
    for out in ("a", "b"):
        site(tmp_path / "results", tmp_path / out)
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert len(files) == 8
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_figures_are_those_of_the_matrix_and_plotly_takes_them(tmp_path: Path) -> None:
    matrices = {"accuracy": HAND, "macro_f1": HAND}
    measured = {"seconds": {"train": [100.0, 200.0, 950.0]}, "host": {"cpu": "a processor", "cores": 2}}
    versions = {"nlpcl": "0.1.0", "threads": "2"}
    content = site(
        tmp_path / "results",
        tmp_path / "site",
        *(record_of("ncl", order, matrices=matrices, measured=measured, versions=versions) for order in (0, 1)),
    )
    (shard,) = content["shards"].values()
    (detail,) = shard["rows"].values()
    run = detail["runs"][0]
    assert run["matrix"]["data"][0]["z"] == [[90.0, None, None], [80.0, 70.0, None], [85.0, 60.0, 50.0]]
    assert run["matrix"]["data"][0]["x"] == [f"{i} {name}" for i, name in enumerate(TASKS, 1)]
    assert run["forgotten"]["data"][0]["y"] == pytest.approx([90 - 85, 70 - 60])
    curves = detail["over_time"]["data"]
    assert [curve["name"] for curve in curves] == ["order 0, seed 0", "order 1, seed 0", "mean"]
    assert all(curve["y"] == pytest.approx([90, 75, 65]) for curve in curves)
    (points,) = shard["cost"]["data"]
    assert (points["name"], points["x"], points["y"]) == ("a processor, 2 cores, 2 threads", [1250.0], [65.0])
    for figure in (run["matrix"], run["forgotten"], detail["over_time"], shard["cost"]):
        go.Figure(figure)  # raises where plotly knows a name or value not
    assert [dict(run["environment"])["machine"]] == shard["machines"] == ["a processor, 2 cores, 2 threads"]
    assert [row["seconds"]["text"] for row in content["rows"]] == ["1,250"]
    assert (seconds_as_text(99.96), seconds_as_text(7), seconds_as_text(0.12345)) == ("100", "7", "0.123")


def test_what_was_not_measured_has_no_figure(tmp_path: Path) -> None:
    diagonal = [[0.5 if i == j else None for j in range(3)] for i in range(3)]
    content = site(tmp_path / "results", tmp_path / "site", record_of("one", matrix=diagonal))
    (shard,) = content["shards"].values()
    (detail,) = shard["rows"].values()
    assert detail["over_time"] is None and detail["runs"][0]["forgotten"] is None and shard["cost"] is None
    (row,) = content["rows"]
    assert row["accuracy"]["text"] == "50.0" and row["forgetting"]["text"] == "" and row["rank"]["text"] == ""


def test_many_tasks_lose_their_labels_in_the_cells_only(tmp_path: Path) -> None:
    for tasks in (20, 21):
        file_many(tmp_path / str(tasks), ["ncl"], [{"benchmark": "asc"}], orders=1, seeds=1, tasks=tasks)
        (run,) = all_rows(tmp_path / str(tasks))[0].runs.values()
        assert ("texttemplate" in figures.matrix(run)["data"][0]) == (tasks <= 20)


def test_what_a_record_says_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    record = hostile()
    plain = tmp_path / "results" / "a $(touch x) b" / f"{record.id}.json"
    plain.parent.mkdir(parents=True)
    plain.write_text(record.model_dump_json(), encoding="utf-8")
    content = site(tmp_path / "results", tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    tags = Tags(page).found
    assert "&lt;script&gt;hurt()" in page and not any(tag == "img" or "onerror" in a for tag, a in tags)
    assert len([tag for tag, _ in tags if tag == "script"]) == 3
    assert not any("\u202e" in text or "\n" in text for text in (page.replace("\n", ""), *strings(content)))
    (shard,) = content["shards"].values()
    (detail,) = shard["rows"].values()
    drawn = [detail["over_time"], *(run[name] for run in detail["runs"] for name in ("matrix", "forgotten"))]
    assert any("&lt;script&gt;" in text for text in strings(drawn)), "plotly reads texts as HTML"
    assert not any(re.search(r"<(?!br>|/?extra>)", text) for text in strings(drawn))
    assert "'" in detail["runs"][0]["command"], "a shell takes the path as one word"
    assert {path.name for path in tmp_path.iterdir()} == {"results", "site"}


@pytest.mark.parametrize("name", ["../../../tmp/x", "/etc/passwd", "..", "CON", "a/../../b", "\x00"])
def test_no_file_is_named_by_a_record(tmp_path: Path, name: str) -> None:
    record = record_of(spec={"strategy": name, "benchmark": name, "backbone": name, "model": name})
    (tmp_path / "results").mkdir()
    record.save(tmp_path / "results" / "record.json")
    site(tmp_path / "results", tmp_path / "site")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "site"]
    names = sorted(str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.*"))
    assert names == ["datatables.css", "datatables.js", "details/0000.js", "index.html", *OTHERS]


def test_another_page_is_not_overwritten_and_an_old_one_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("<h1>my page</h1>")
    with refused("index.html"):
        site(tmp_path / "results", out, record_of())
    assert [path.name for path in out.iterdir()] == ["index.html"]
    (out / "index.html").unlink()
    site(tmp_path / "results", out, record_of("ncl", spec={"epochs": 9}))
    assert len(list((out / "details").iterdir())) == 2
    (out / "details" / "notes.js").write_text("mine")
    (tmp_path / "results" / place_of(record_of())).unlink()
    build(all_rows(tmp_path / "results"), {}, out, tmp_path / "results")
    assert sorted(path.name for path in (out / "details").iterdir()) == ["0000.js", "notes.js"]
    (tmp_path / "file").write_text("")
    with refused(str(tmp_path / "file" / "site")):
        build([], {}, tmp_path / "file" / "site", tmp_path)


def test_at_a_glance_has_the_protocols_with_most_methods(tmp_path: Path) -> None:
    protocols = [{"epochs": i} for i in range(1, 10)]
    file_many(tmp_path, ["ncl", "hat"], protocols, orders=1, seeds=2)
    file_many(tmp_path, ["ewc"], protocols[-1:], orders=1, seeds=2)
    glance = overview(all_rows(tmp_path))
    assert (glance["protocols"], len(glance["heads"])) == (9, 8) and "9 epochs" in glance["heads"][0]["budget"]
    cells = dict(glance["lines"])
    assert set(cells) == {"ncl", "ewc", "hat"} and all(cell is None for cell in cells["ewc"][1:])
    column = [cells[name][0] for name in cells]
    assert sorted((cell["share"], cell["best"]) for cell in column)[0] == (0, False)
    assert [cell["text"] for cell in column if cell["best"]] == [cells["hat"][0]["text"]]


def test_settings_that_differ_behind_the_cut_are_lines_of_their_own(tmp_path: Path) -> None:
    for rate, score in ((0.01, 0.4), (0.02, 0.6), (0.03, 0.5)):
        record = record_of("ewc", matrix=score, spec={"weight_decay": rate, "options": {"a": f"{'x' * 200}{rate}"}})
        record.save(tmp_path / place_of(record))
    rows = all_rows(tmp_path)
    glance = overview(rows)
    names, cells = zip(*glance["lines"], strict=True)
    assert len(set(names)) == 3 and sorted(cell[0]["text"] for cell in cells) == ["40.0", "50.0", "60.0"]
    lines = [line for line in markdown_tables(rows, {}).splitlines() if line.startswith("| ewc ")]
    assert len({line.split(" | ")[0] for line in lines}) == 3
    assert len({row["setting"] for row in site(tmp_path, tmp_path / "site")["rows"]}) == 3


def test_the_readme_holds_the_tables_between_its_marks(tmp_path: Path) -> None:
    readme, published = tmp_path / "README.md", read_published(PUBLISHED)
    readme.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    records = [record_of("ncl", order, 0, value, spec={"benchmark": "asc"}) for order, value in ((0, 0.4), (1, 0.6))]
    for record in (*records, record_of("ewc", spec={"benchmark": "asc", "options": {"a|b": "*"}}), hostile()):
        record.save(tmp_path / "results" / f"{record.id}.json")
    rows = all_rows(tmp_path / "results")
    assert update_readme(readme, rows, published) and not update_readme(readme, rows, published)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{BEGIN}\n") and text.endswith(f"\n{END}\n\nafter\n") and "old" not in text
    figure = next(p.value for p in published["asc", "til", "bert_adapter", "ncl", "average_accuracy"])
    difference = f"{50 - figure:+.1f}".replace("-", "−")
    assert f"| ncl | 2 | 50.0 ± 14.1 | 50.0 ± 14.1 | 0.0 ± 0.0 | 2.00 | {figure:.2f}† | {difference}† |" in text
    assert any(
        line.startswith("†") and mentions(line, "encoder bert-base-uncased minilm") for line in text.splitlines()
    )
    assert not re.search(r"(?<!\\)\|`|<script|(?<!\\)\[x", text)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with refused("README.md"):
        update_readme(readme, [], {})
    assert readme.read_text() == text
    with refused("none.md"):
        update_readme(tmp_path / "none.md", [], {})


def test_the_tables_are_up_to_date(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_bytes((ROOT / "leaderboard" / "README.md").read_bytes())
    changed = update_readme(copy, all_rows(ROOT / "leaderboard" / "results"), read_published(PUBLISHED))
    assert not changed, "run: python leaderboard/build.py --readme leaderboard/README.md"


def test_the_command_builds_the_page_and_loads_no_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_of().save(tmp_path / "results" / "record.json")
    record_of("ewc", status="failed", error="no memory").save(tmp_path / "results" / "b" / "record.json")
    flags = ["--results", str(tmp_path / "results"), "--published", str(PUBLISHED), "--out", str(tmp_path / "site")]
    script = f"import runpy, sys; sys.argv = {['build.py', *flags]!r}\n"
    script += "try: runpy.run_path('leaderboard/build.py', run_name='__main__')\n"
    script += "except SystemExit as done: assert not done.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert mentions(done.stdout, f"{tmp_path / 'site' / 'index.html'} 1") and done.stdout.count("\n") == 1
    assert mentions(done.stderr, "note: 1 failed") and done.stderr.count("\n") == 1
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    for told in ("updated", "up to date"):
        assert main(["leaderboard", "build", *flags, "--readme", str(tmp_path / "README.md")]) == 0
        assert capsys.readouterr().out.endswith(f"README.md: {told}\n")
    assert main(["leaderboard", "build", "--results", str(tmp_path / "none")]) == 2


def test_the_scripts_find_their_results_from_anywhere(tmp_path: Path) -> None:
    """And the page names them as they lie in the repository."""

    def script(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(ROOT / "leaderboard" / name), *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env=environment)

    assert script("build.py", "--out", "site").returncode == 0
    content = content_of(tmp_path / "site")
    commands = [text for text in strings(content) if text.startswith("nlpcl run --from ")]
    assert len(commands) == 21
    assert all((ROOT / command.split()[-1]).is_file() for command in commands)
    assert str(ROOT) not in "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.js"))
    assert any(row["published"]["text"] for row in content["rows"])
    assert "ncl" in script("compare.py", "ncl", "hat", "--format", "csv").stdout


def test_an_empty_leaderboard_says_so(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert site(tmp_path / "results", tmp_path / "site")["rows"] == []
    assert mentions((tmp_path / "site" / "index.html").read_text(encoding="utf-8"), "No records")
