from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base import BaseTemplate as BaseTemplate
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

_Experience = TypeVar("_Experience")
_Batch = TypeVar("_Batch")
_Output = TypeVar("_Output")

class BaseSGDTemplate(BaseTemplate[_Experience], Generic[_Experience, _Batch, _Output]):
    optimizer: Optimizer
    _criterion: Callable[[Tensor, Tensor], Tensor]
    train_epochs: int
    train_mb_size: int
    eval_mb_size: int
    retain_graph: bool
    evaluator: EvaluationPlugin
    clock: Clock
    adapted_dataset: AvalancheDataset[Any] | None
    dataloader: Iterable[Any]
    mbatch: _Batch | None
    mb_output: _Output | None
    loss: Tensor
    _stop_training: bool

    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        criterion: Callable[[Tensor, Tensor], Tensor] = ...,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = 1,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin[Any]] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = ...,
        eval_every: int = -1,
        peval_mode: str = "epoch",
        **kwargs: Any,
    ) -> None: ...
    def train(
        self, experiences: _Experience | Iterable[_Experience], eval_streams: Sequence[Any] | None = None, **kwargs: Any
    ) -> dict[str, Any]: ...
    def eval(self, exp_list: _Experience | Iterable[_Experience], **kwargs: Any) -> dict[str, Any]: ...
    def training_epoch(self, **kwargs: Any) -> None: ...
    def eval_epoch(self, **kwargs: Any) -> None: ...
    def train_dataset_adaptation(self, **kwargs: Any) -> None: ...
    def make_train_dataloader(
        self,
        num_workers: int = 0,
        shuffle: bool = True,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        drop_last: bool = False,
        **kwargs: Any,
    ) -> None: ...
    def make_eval_dataloader(
        self,
        num_workers: int = 0,
        shuffle: bool = False,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        **kwargs: Any,
    ) -> None: ...
    def make_optimizer(self, **kwargs: Any) -> None: ...
    def model_adaptation(self, model: Module | None = None) -> Module: ...
    def criterion(self) -> Tensor: ...
    def forward(self) -> _Output: ...
    def backward(self) -> None: ...
    def optimizer_step(self) -> None: ...
    def _train_exp(self, experience: _Experience, eval_streams: Any = None, **kwargs: Any) -> None: ...
    def _unpack_minibatch(self) -> None: ...
    def _make_empty_loss(self) -> Tensor: ...
    def _before_training_epoch(self, **kwargs: Any) -> None: ...
    def _after_training_epoch(self, **kwargs: Any) -> None: ...
    def _before_forward(self, **kwargs: Any) -> None: ...
    def _before_backward(self, **kwargs: Any) -> None: ...
    def _after_training_iteration(self, **kwargs: Any) -> None: ...

class SupervisedTemplate(BaseSGDTemplate[_Experience, _Batch, _Output]):
    optimized_param_id: dict[str, Parameter] | None

    @property
    def mb_x(self) -> Tensor: ...
    @property
    def mb_y(self) -> Tensor: ...
    @property
    def mb_task_id(self) -> Tensor: ...

class SupervisedMetaLearningTemplate(BaseSGDTemplate[_Experience, _Batch, _Output]): ...
