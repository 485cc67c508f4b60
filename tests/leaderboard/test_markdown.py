"""Names in Markdown are shown as they stand, by CommonMark and by the renderer of the pages, which links addresses."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import markdown
import pytest
from markdown_it import MarkdownIt

from nlpcl.leaderboard.compare import compare
from nlpcl.leaderboard.files import read_runs, select_runs
from nlpcl.leaderboard.report import markdown as as_markdown
from nlpcl.leaderboard.report import markdown_table, markdown_text
from tests.helpers.records import record_of

NAMES = [
    *("bert_adapter", "__x__", "**x**", "~~x~~", "$x$", "a_b*c_d*e", "`x`", "``", "a|b", "a\\|b", "\\", "a\\_b"),
    *("<script>alert(1)</script>", "<b", "a > b & c", "&lt;b&gt;", "&#60;", "<!-- x -->", "<x@y.org>", "{: .x }"),
    *("[x](http://y.z)", "![x](y.z)", "[x]: y.z", "[^1]", "http://x.org/?a=b&c=d", "see https://x.org.", "www.x.org"),
    *("ftp://x.org", "mailto:a@b.org", "a@b.org", "@someone", "hat@bert_adapter", "x.org", "xmpp:a@b.c", "seed:3"),
    *("- x", "+ x", "* x", "1. x", "12) x", "# x", "> x", "---", "===", "***", "~~~x", "```x", "0.12 of 1.5", "-5"),
    *("learning_rate=0.5, lamb=1e-3", "a − b", "ключ", "x ± 1.2", "|", "||", "a||b|"),
]  # fmt: skip
RENDERERS: dict[str, Callable[[str], str]] = {
    "commonmark": MarkdownIt("commonmark").enable("table").render,
    "mkdocs": lambda text: markdown.markdown(text, extensions=["tables", "pymdownx.magiclink"]),
}


def shown(rendered: str) -> str:
    return html.unescape(re.sub(r"<!--.*?-->", "", rendered)).strip()


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_stands(name: str, renderer: str) -> None:
    text = markdown_text(name)
    page = RENDERERS[renderer](f"{markdown_table(['name', 'n'], [[text, '1'], ['next', '2']])}\n\n{text}\n")
    cells = [shown(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, flags=re.DOTALL)]
    assert cells == [name, "1", "next", "2"]
    assert [shown(line) for line in re.findall(r"<p>(.*?)</p>", page, flags=re.DOTALL)] == [name]
    assert set(re.findall(r"<(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td", "p"}


@pytest.mark.parametrize("name", ["a\nb", "a\r\n\r\n# b", "\x1b[31mred", "a\u202eb", "a\u2028b", "\x00", "  x  "])
def test_a_name_stays_on_one_line(name: str) -> None:
    text = markdown_text(name)
    assert text.isprintable() and text == text.strip() and "red" not in text.partition("[")[2]


def test_labels_of_a_comparison_are_shown_as_they_stand(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("<b>a|b</b>", "[x](http:y.z)_`")]
    for folder, matrix in zip(folders, (0.5, 0.6), strict=True):
        record_of(matrix=matrix).save(folder / "record.json")
    record_of(seed=1, status="failed", error="no memory").save(folders[0] / "b" / "failed.json")
    labels = [str(folder) for folder in folders]
    page = RENDERERS["commonmark"](as_markdown(compare(select_runs(labels, read_runs(tmp_path / "none")))))
    assert set(re.findall(r"<(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    cells = [shown(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, flags=re.DOTALL)]
    assert labels[0] in cells and labels[1] in cells and f"{labels[0]}: 1 failed run(s) not counted." in shown(page)
