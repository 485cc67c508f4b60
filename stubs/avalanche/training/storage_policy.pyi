from abc import ABC
from typing import Any

from avalanche.benchmarks.utils import AvalancheDataset

class ExemplarsBuffer(ABC):
    max_size: int

    def __init__(self, max_size: int) -> None: ...
    @property
    def buffer(self) -> AvalancheDataset[Any]: ...
    def update(self, strategy: Any, **kwargs: Any) -> None: ...

class ReservoirSamplingBuffer(ExemplarsBuffer): ...
