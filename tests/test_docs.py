"""The pages build without a warning, need no network, and hold every public module; links lead somewhere."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

import nlpcl
from nlpcl.cli import main
from nlpcl.cli.dispatch import app
from nlpcl.registry import strategies

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "coming-from-pycontinual.md").read_text(encoding="utf-8")
# Not read as a library: the command line, and what `python -m nlpcl` runs.
COMMANDS = ("nlpcl.cli", "nlpcl.__main__")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as HTML, built as README says, with warnings as errors."""
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        if not _installed(module):
            pytest.skip(f"{module} is not installed: pip install 'nlpcl[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def _articles(site: Path) -> dict[str, str]:
    """By page the part of it that is ours."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html")}
    return {name: re.findall(r"<article.*?</article>", page, flags=re.DOTALL)[0] for name, page in pages.items()}


def test_every_public_module_is_on_one_page(site: Path) -> None:
    modules = {
        module.name
        for module in pkgutil.walk_packages(nlpcl.__path__, "nlpcl.")
        if not module.ispkg and not module.name.startswith(COMMANDS) and "._" not in module.name
    }
    assert len(modules) > 60
    articles = _articles(site)
    for name in sorted(modules):
        pages = [page for page, text in articles.items() if re.search(rf'id="{re.escape(name)}"', text)]
        assert len(pages) == 1, f"{name} is on the API pages {pages}: name it on one of docs/api/*.md"


def test_every_strategy_has_its_text_and_its_paper(site: Path) -> None:
    page = _articles(site)["strategies"]
    ours = [entry for entry in strategies.entries() if "/" not in entry.name]
    assert ours
    for entry in ours:
        assert f'id="{entry.target.__module__}.{entry.target.__qualname__}"' in page, entry.name
        assert entry.url in page, entry.name


def test_formulas_are_not_taken_for_emphasis(site: Path) -> None:
    """`a * b * c` in a docstring would become a in italics; the one word that is is mkdocstrings' own."""
    for name, text in _articles(site).items():
        assert set(re.findall(r"<(?:em|strong)>(.*?)</", text, flags=re.DOTALL)) <= {"required"}, name


def test_a_reader_needs_no_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"'\s>]+)", page)
        fetched += re.findall(r"<link[^>]*\shref=[\"']?([^\"'\s>]+)", page)
        assert not [address for address in fetched if "//" in address], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local
    for link in local:
        assert (ROOT / link).exists(), f"{name}: {link}"


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:nlpcl|tests)/[\w/]+\.py)`", text)
    assert len(files) > 30
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_the_flags_of_the_guide_are_those_of_run() -> None:
    """Left the original toolkit's, which are taken as they stand, right ours."""
    (table,) = re.findall(r"\| original \| here \| \|\n(.*?)\n\n", GUIDE, flags=re.DOTALL)
    known = {option for parameter in get_command(app).commands["run"].params for option in parameter.opts}  # type: ignore[attr-defined]
    rows = [row.split("|")[1:3] for row in table.splitlines()]
    named = [flag.replace("_", "-") for row in rows for cell in row for flag in re.findall(r"--[a-z][\w-]+", cell)]
    assert len(named) > 30
    assert not [flag for flag in named if flag not in known]


def test_the_commands_of_the_guide_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^nlpcl (run .*)$", GUIDE, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main([*command.split(), "--dry-run"]) == 0, command
        assert "record.json" in capsys.readouterr().out
