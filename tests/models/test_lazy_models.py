"""`nlpcl.models` gives its names on first use, without loading what is not asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from nlpcl import models


def test_every_name_that_type_checkers_see_can_be_imported() -> None:
    tree = ast.parse(Path(models.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == dir(models)
    assert all(getattr(models, name).__name__ == name for name in names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Lost"):
        _ = models.Lost


def test_a_net_for_images_loads_no_encoder() -> None:
    code = "import sys; from nlpcl.models import MLP; sys.exit('nlpcl.models.encoder' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
