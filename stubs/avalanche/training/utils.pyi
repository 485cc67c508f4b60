from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")

def cycle(loader: Iterable[_T]) -> Iterator[_T]: ...

class ParamData:
    def __init__(
        self,
        name: str,
        shape: tuple[int, ...] | None = None,
        init_function: Callable[[torch.Size], Tensor] = ...,
        init_tensor: Tensor | None = None,
        device: str | torch.device = "cpu",
    ) -> None: ...
