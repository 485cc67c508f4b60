"""nlpcl: continual learning for NLP, as an extension of Avalanche.

Public names are imported on first use, so `import nlpcl` and `nlpcl --help` load no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "UsageError": "nlpcl.errors",
    "RunSpec": "nlpcl.spec",
    "Record": "nlpcl.records",
    "run": "nlpcl.experiment",
    "fit": "nlpcl.loop",
    "ContinualModel": "nlpcl.models",
    "BertAdapter": "nlpcl.models",
    "build_model": "nlpcl.models",
}

if TYPE_CHECKING:
    from nlpcl.errors import UsageError
    from nlpcl.experiment import run
    from nlpcl.loop import fit
    from nlpcl.models import BertAdapter, ContinualModel, build_model
    from nlpcl.records import Record
    from nlpcl.spec import RunSpec

__all__ = [
    "BertAdapter",
    "ContinualModel",
    "Record",
    "RunSpec",
    "UsageError",
    "__version__",
    "build_model",
    "fit",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nlpcl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
