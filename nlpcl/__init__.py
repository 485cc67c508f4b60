"""nlpcl: continual learning for NLP, as an extension of Avalanche.

Public names are imported on first use, so `import nlpcl` and `nlpcl --help` load no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "UsageError": "nlpcl.errors",
    "RunSpec": "nlpcl.config.spec",
    "Record": "nlpcl.records.record",
    "run": "nlpcl.runs.run",
    "fit": "nlpcl.runs.fit",
    "ContinualModel": "nlpcl.models",
    "BertAdapter": "nlpcl.models",
    "build_model": "nlpcl.models",
}

if TYPE_CHECKING:
    from nlpcl.config.spec import RunSpec as RunSpec
    from nlpcl.errors import UsageError as UsageError
    from nlpcl.models import BertAdapter as BertAdapter
    from nlpcl.models import ContinualModel as ContinualModel
    from nlpcl.models import build_model as build_model
    from nlpcl.records.record import Record as Record
    from nlpcl.runs.fit import fit as fit
    from nlpcl.runs.run import run as run

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nlpcl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
