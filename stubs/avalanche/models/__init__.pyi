from typing import Any

from avalanche.benchmarks import CLExperience
from torch import Tensor
from torch.nn import Module

class DynamicModule(Module):
    def __init__(self, auto_adapt: bool = True) -> None: ...
    def adaptation(self, experience: CLExperience) -> None: ...

class MultiTaskModule(DynamicModule):
    known_train_tasks_labels: set[int]

    def __init__(self, **kwargs: Any) -> None: ...
    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor: ...

def avalanche_forward(model: Module, x: Tensor, task_labels: Tensor | int | None) -> Any: ...
