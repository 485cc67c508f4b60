from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedMetaLearningTemplate, SupervisedTemplate
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

_Experience = TypeVar("_Experience")
_Batch = TypeVar("_Batch")
_Output = TypeVar("_Output")

class Naive(SupervisedTemplate[Any, Any, Any]):
    def __init__(self, *, model: Module, optimizer: Optimizer, **base_kwargs: Any) -> None: ...

class Cumulative(SupervisedTemplate[Any, Any, Any]):
    def __init__(self, *, model: Module, optimizer: Optimizer, **kwargs: Any) -> None: ...

class EWC(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        ewc_lambda: float,
        mode: Literal["separate", "online"] = "separate",
        decay_factor: float | None = None,
        keep_importance_data: bool = False,
        **base_kwargs: Any,
    ) -> None: ...

class Replay(SupervisedTemplate[Any, Any, Any]):
    def __init__(self, *, model: Module, optimizer: Optimizer, mem_size: int = 200, **base_kwargs: Any) -> None: ...

class GEM(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        patterns_per_exp: int,
        memory_strength: float = 0.5,
        **base_kwargs: Any,
    ) -> None: ...

class AGEM(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self, *, model: Module, optimizer: Optimizer, patterns_per_exp: int, sample_size: int = 64, **base_kwargs: Any
    ) -> None: ...

class LwF(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        alpha: float | Sequence[float],
        temperature: float,
        **base_kwargs: Any,
    ) -> None: ...

class SynapticIntelligence(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        si_lambda: float | Sequence[float],
        eps: float = 1e-07,
        **base_kwargs: Any,
    ) -> None: ...

class MAS(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        lambda_reg: float = 1.0,
        alpha: float = 0.5,
        verbose: bool = False,
        **base_kwargs: Any,
    ) -> None: ...

class LFL(SupervisedTemplate[Any, Any, Any]):
    def __init__(self, *, model: Module, optimizer: Optimizer, lambda_e: float, **base_kwargs: Any) -> None: ...

class GDumb(SupervisedTemplate[Any, Any, Any]):
    def __init__(self, *, model: Module, optimizer: Optimizer, mem_size: int = 200, **base_kwargs: Any) -> None: ...

class CWRStar(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self, *, model: Module, optimizer: Optimizer, cwr_layer_name: str | None, **base_kwargs: Any
    ) -> None: ...

class FromScratchTraining(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self, *, model: Module, optimizer: Optimizer, reset_optimizer: bool = True, **base_kwargs: Any
    ) -> None: ...

class DER(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        mem_size: int = 200,
        batch_size_mem: int | None = None,
        alpha: float = 0.1,
        beta: float = 0.5,
        **kwargs: Any,
    ) -> None: ...

class ER_ACE(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self, *, model: Module, optimizer: Optimizer, mem_size: int = 200, batch_size_mem: int = 10, **kwargs: Any
    ) -> None: ...

class MER(SupervisedMetaLearningTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        mem_size: int = 200,
        batch_size_mem: int = 10,
        n_inner_steps: int = 5,
        beta: float = 0.1,
        gamma: float = 0.1,
        **kwargs: Any,
    ) -> None: ...

class ICaRL(SupervisedTemplate[Any, Any, Any]):
    def __init__(
        self,
        *,
        feature_extractor: Module,
        classifier: Module,
        optimizer: Optimizer,
        memory_size: int,
        buffer_transform: Callable[[Any], Any] | None,
        fixed_memory: bool,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: list[BasePlugin[Any]] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = ...,
        eval_every: int = -1,
    ) -> None: ...

class JointTraining(SupervisedTemplate[_Experience, _Batch, _Output]):
    _experiences: list[_Experience]

    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Callable[[Tensor, Tensor], Tensor],
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int = 1,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin[Any]] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = ...,
        eval_every: int = -1,
        **kwargs: Any,
    ) -> None: ...
