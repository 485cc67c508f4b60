"""`nlpcl.models` gives its names on first use, without loading what is not asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nlpcl import models


@pytest.mark.parametrize("name", models.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(models, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Lost"):
        _ = models.Lost


def test_a_net_for_images_loads_no_encoder() -> None:
    code = "import sys; from nlpcl.models import MLP; sys.exit('nlpcl.models.encoder' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
