"""The README's commands and example are what is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert command.endswith("python -m pytest -n auto --dist worksteal")
    assert f"```bash\n{command}\n```" in README


def test_the_example_runs(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, but with the tiny encoder, little data and one epoch."""
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 14
    quick = example.replace('"minilm"', repr(tiny)).replace("train_epochs=5", "train_epochs=1")
    quick = quick.replace("order=0", "order=0, train_size=16")
    assert quick.count(repr(tiny)) == 2
    names: dict[str, Any] = {}
    exec(compile(quick, "README.md", "exec"), names)
    assert names["results"]


def test_the_example_of_own_data_runs(tiny: str) -> None:
    text = (ROOT / "docs" / "streams.md").read_text(encoding="utf-8")
    example, _ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example.replace('"minilm"', repr(tiny)), "streams.md", "exec"), names)
    assert names["benchmark"].task_names == ["phones", "laptops"] and names["benchmark"].n_classes == [2, 2]
