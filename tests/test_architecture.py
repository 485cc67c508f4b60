"""Who imports whom (docs/architecture.md): the contracts in pyproject.toml, and what these cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nlpcl"
FILES = sorted(PACKAGE.rglob("*.py"))
CORE = [file for file in FILES if file.parent.name in ("nlpcl", "config", "records") and file.stem != "__main__"]
LIGHT = {"nlpcl", "lazy_loader", "numpy", "pandas", "pydantic", "huggingface_hub", "tomli", *sys.stdlib_module_names}


def imports(file: Path, top_level: bool = False) -> set[str]:
    """Return the modules that a file imports; all imports must be absolute."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{file}: relative import"
            found.add(node.module)
    return found


def under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def test_the_contracts_are_kept() -> None:
    """In a process of its own, since import-linter silences all loggers there are."""
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", CORE, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_core_loads_nothing_heavy(file: Path) -> None:
    assert {module.partition(".")[0] for module in imports(file, top_level=True)} <= LIGHT


@pytest.mark.parametrize(
    "name", ["sweeps/plan", "sweeps/local", "sweeps/ray", *(f"cli/{f.stem}" for f in (PACKAGE / "cli").glob("*.py"))]
)
def test_what_starts_runs_starts_without_what_they_need(name: str) -> None:
    """So that `nlpcl --help` and a sweep of a thousand runs load no torch."""
    for module in imports(PACKAGE / f"{name}.py", top_level=True):
        heavy = ("models", "benchmarks", "strategies", "runs.run")
        assert not under(module, ("torch", "avalanche", "transformers", "ray", "optuna")), module
        assert not under(module, tuple(f"nlpcl.{part}" for part in heavy)), module


def test_models_take_only_avalanche_models() -> None:
    for file in (PACKAGE / "models").glob("*.py"):
        assert all(module == "avalanche.models" for module in imports(file) if module.startswith("avalanche")), file


def test_files_stay_readable() -> None:
    for file in FILES:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file
