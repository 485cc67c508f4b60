"""The public names of `nlpcl`; `__init__.py` reads them here and imports each on first use."""

from .config.spec import RunSpec
from .errors import UsageError
from .models import BertAdapter, ContinualModel, build_model
from .records.record import Record
from .runs.fit import fit
from .runs.run import run

__version__: str

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
