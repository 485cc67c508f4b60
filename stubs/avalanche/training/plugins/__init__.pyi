from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avalanche.core import SupervisedPlugin as SupervisedPlugin
from avalanche.evaluation import PluginMetric
from torch import Tensor

class EvaluationPlugin:
    active: bool
    metrics: list[PluginMetric[Any]]

    def __init__(
        self,
        *metrics: PluginMetric[Any] | Sequence[PluginMetric[Any]],
        loggers: Any = None,
        collect_all: bool = True,
        strict_checks: bool = False,
    ) -> None: ...
    def get_last_metrics(self) -> dict[str, Any]: ...

class CoPEPlugin(SupervisedPlugin[Any]):
    n_classes: int
    initialized: bool
    ppp_loss: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self,
        mem_size: int = 200,
        n_classes: int = 10,
        p_size: int = 100,
        alpha: float = 0.99,
        T: float = 0.1,
        max_it_cnt: int = 1,
    ) -> None: ...
    def _init_new_prototypes(self, targets: Tensor) -> None: ...
    def _update_prototypes(self) -> None: ...

class GSS_greedyPlugin(SupervisedPlugin[Any]):
    mem_size: int
    ext_mem_list_x: Tensor
    ext_mem_list_y: Tensor
    ext_mem_list_current_index: int

    def __init__(self, mem_size: int = 200, mem_strength: int = 5, input_size: list[int] = []) -> None: ...
    def get_rand_mem_grads(self, strategy: Any, grad_dims: list[int], gss_batch_size: int) -> Tensor: ...

class MIRPlugin(SupervisedPlugin[Any]):
    subsample: int
    batch_size_mem: int
    storage_policy: Any
    replay_loader: Iterator[list[Tensor]] | None

    def __init__(self, batch_size_mem: int, mem_size: int = 200, subsample: int = 200) -> None: ...

class RWalkPlugin(SupervisedPlugin[Any]):
    def __init__(self, ewc_lambda: float = 0.1, ewc_alpha: float = 0.9, delta_t: int = 10) -> None: ...
