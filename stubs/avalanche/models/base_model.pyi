from abc import ABC, abstractmethod

from torch import Tensor

class BaseModel(ABC):
    @abstractmethod
    def get_features(self, x: Tensor) -> Tensor: ...
