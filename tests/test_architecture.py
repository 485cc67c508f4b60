"""Who imports whom (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nlpcl"
PLAIN = ("__future__", "numpy", "pandas", "pydantic", "huggingface_hub", "tomli")
OURS = ("nlpcl.errors", "nlpcl.registry", "nlpcl.options", "nlpcl.ranges", "nlpcl.config", "nlpcl.records")
ABOVE = ("nlpcl.runs", "nlpcl.sweeps", "nlpcl.cli", "nlpcl.config.spec", "nlpcl.records")
FORBIDDEN = {
    "models": ("nlpcl.strategies", "nlpcl.benchmarks", *ABOVE),
    "benchmarks": ("nlpcl.strategies", *ABOVE),
    "strategies": ("nlpcl.benchmarks", *ABOVE),
    "training": ("nlpcl.strategies", "nlpcl.benchmarks", "nlpcl.evaluation", "nlpcl.runs", "nlpcl.cli"),
    "evaluation": ("nlpcl.models", "nlpcl.strategies", "nlpcl.benchmarks", *ABOVE),
    "runs": ("nlpcl.sweeps", "nlpcl.cli", "nlpcl.leaderboard"),
    "sweeps": ("nlpcl.cli", "nlpcl.leaderboard"),
    "leaderboard": (
        "nlpcl.cli",
        "nlpcl.runs",
        "nlpcl.training",
        "torch",
        "avalanche",
        "transformers",
        "nlpcl.models",
        "nlpcl.strategies",
        "nlpcl.benchmarks",
    ),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path, top_level: bool = False) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            found.add(node.module)
    return found


def under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


CORE = [file for file in FILES if file.parent.name in ("nlpcl", "config", "records") and file.stem != "__main__"]


@pytest.mark.parametrize("file", CORE, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_core_imports_nothing_heavy(file: Path) -> None:
    import sys

    for module in imports(file, top_level=True):
        assert module.partition(".")[0] in {*PLAIN, *sys.stdlib_module_names} or under(module, OURS), module


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_folders_keep_their_distance(folder: str) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        for module in imports(file):
            assert not under(module, FORBIDDEN[folder]), f"{file.name} imports {module}"


def test_models_take_only_avalanche_models() -> None:
    for file in (PACKAGE / "models").glob("*.py"):
        assert all(module == "avalanche.models" for module in imports(file) if module.startswith("avalanche")), file


def test_a_method_never_imports_another_method() -> None:
    for file in (PACKAGE / "strategies").rglob("*.py"):
        own = file.relative_to(PACKAGE / "strategies").parts[0].removesuffix(".py")
        for module in imports(file):
            if module.startswith("nlpcl.strategies."):
                other = module.split(".")[2]
                assert other in (own, "_shared"), f"{file.name} imports {module}"


def test_only_the_run_joins_the_parts() -> None:
    for file in (PACKAGE / "cli").glob("*.py"):
        for module in imports(file, top_level=True):
            assert not under(module, ("nlpcl.models", "nlpcl.strategies", "nlpcl.benchmarks")), file


@pytest.mark.parametrize("name", ["sweeps/plan", "sweeps/local", "sweeps/ray", "cli/display", "cli/sweep", "cli/tune"])
def test_a_sweep_starts_without_what_its_runs_need(name: str) -> None:
    for module in imports(PACKAGE / f"{name}.py", top_level=True):
        assert not under(module, ("torch", "avalanche", "transformers", "ray", "optuna", "nlpcl.runs.run")), module


def test_files_stay_readable() -> None:
    for file in FILES:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file
