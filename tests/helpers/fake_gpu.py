"""A GPU on which shapes alone are computed: what the host would wait for there, and what lies on the wrong device.

Only for a process of its own: torch knows the device from then on.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from nlpcl.models import device

GPU = "gpu"
FILE = Path(__file__).resolve()
ROOT = FILE.parents[2]
ATEN = torch.ops.aten


class Absent(torch._C._acc.PrivateUse1Hooks):
    """What torch asks of a backend: there is no such device, but tensors may say that they lie on it."""

    def is_available(self) -> bool:
        return False

    def has_primary_context(self, dev_id: int) -> bool:
        return False

    def is_built(self) -> bool:
        return True


class AbsentModule(backend_registration._DummyBackendModule):
    def is_available(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class FakeGPU(TorchDispatchMode):
    """Computes on the host as ever; of tensors on the GPU it gives the shapes. What is read from there is 1 or True.

    `waits` lists what the host would wait for: values read, shapes that depend on values, copies in either direction
    but from page-locked memory; each as `file.py: what`, the file being the innermost of nlpcl or its tests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # In inference mode operations come that are made of others.
        if torch.is_inference_mode_enabled() and func.namespace == "aten":
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        there = any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs)))
        to = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if not there and (to is None or to.type == "cpu"):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if func is ATEN._to_copy.default and to is not None:
            return self.copied(args[0], to, there, **kwargs)
        if func is ATEN.copy_.default and not all(isinstance(x, FakeTensor) for x in args[:2]):
            self.wait("a copy in place")
            return args[0]
        if func.name() in WRITES and any(i is not None and awaited(i) for i in args[1]):
            self.wait("a write by index")
            return args[0]
        if func.name() in SHAPES:
            return SHAPES[func.name()](self, *args)
        return func(*args, **kwargs)

    def wait(self, what: str) -> None:
        files = [Path(frame.filename) for frame in traceback.extract_stack()]
        ours = [file.name for file in files if {ROOT / "nlpcl", ROOT / "tests"} & {*file.parents} and file != FILE]
        self.waits.append(f"{ours[-1]}: {what}")

    def copied(self, x: Tensor, to: torch.device, there: bool, **how: Any) -> Tensor:
        dtype = how.get("dtype") or x.dtype
        if to.type == "cpu":
            self.wait("a copy to the host")
            with _disable_current_modes():
                if x.dtype is torch.float64 and x.dim() == 2:  # GEM's products: of gradients that disagree
                    return 2 * torch.eye(*x.shape, dtype=dtype) - 1
                return torch.ones(x.shape, dtype=dtype)
        if not there and not (how.get("non_blocking") and hasattr(x, "page_locked")):
            self.wait("a copy from pageable memory")
        return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=to)

    def read(self, x: Tensor) -> Any:
        self.wait("a value")
        return {torch.bool: bool, torch.float32: float, torch.float64: float}.get(x.dtype, int)(1)

    def equal(self, a: Tensor, b: Tensor) -> bool:
        self.wait("a comparison")
        return True

    def nonzero(self, x: Tensor) -> Tensor:
        self.wait("nonzero")
        return x.new_zeros((x.numel(), x.dim()), dtype=torch.long)

    def unique(self, x: Tensor, *how: bool) -> tuple[Tensor, Tensor, Tensor]:
        """As if all were different."""
        self.wait("unique")
        return x.flatten(), x.new_zeros(x.shape, dtype=torch.long), x.new_zeros(x.numel(), dtype=torch.long)

    def index(self, x: Tensor, indices: list[Tensor | None]) -> Tensor:
        """As if a mask chose all."""
        positions: list[Tensor | None] = []
        for i in indices:
            if i is not None and awaited(i):
                self.wait("a mask as index" if i.dtype is torch.bool else "an index of the host's")
            if i is not None and i.dtype is torch.bool:
                positions += [i.new_zeros(i.numel(), dtype=torch.long) for _ in range(i.dim())]
            else:
                positions.append(i)
        return ATEN.index.Tensor(x, positions)

    def gru_cell(self, of_x: Tensor, of_h: Tensor, h: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(h), h.new_empty(len(h), 5 * h.shape[1])

    def gru_cell_backward(self, grad: Tensor, workspace: Tensor, bias: bool) -> tuple[Tensor, ...]:
        gates = [grad.new_empty(len(grad), 3 * grad.shape[1]) for _ in range(2)]
        return (*gates, torch.empty_like(grad), *(grad.new_empty(3 * grad.shape[1]) for _ in range(2)))


def awaited(index: Tensor) -> bool:
    """Whether an index makes the host wait: a mask, or one that is not there yet."""
    return index.dtype is torch.bool or not isinstance(index, FakeTensor)


WRITES = ("aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
# Of these torch has no shapes, or they depend on values.
SHAPES = {
    "aten::_local_scalar_dense": FakeGPU.read,
    "aten::equal": FakeGPU.equal,
    "aten::nonzero": FakeGPU.nonzero,
    "aten::_unique2": FakeGPU.unique,
    "aten::index.Tensor": FakeGPU.index,
    "aten::_thnn_fused_gru_cell": FakeGPU.gru_cell,
    "aten::_thnn_fused_gru_cell_backward": FakeGPU.gru_cell_backward,
}


def page_locked(x: Tensor) -> Tensor:
    copy = x.view_as(x)
    copy.page_locked = True  # type: ignore[attr-defined]
    return copy


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Within it, the device `GPU`."""
    if torch._C._get_privateuse1_backend_name() != GPU:
        backend_registration._setup_privateuseone_for_python_backend(GPU, AbsentModule(), Absent())
    mode = FakeGPU()
    with ExitStack() as stack:
        stack.enter_context(patch.object(Tensor, "pin_memory", page_locked))
        stack.enter_context(patch.object(device, "PAGE_LOCKED", (GPU,)))
        # `Module.to` would swap each parameter that lies there already for itself, which those of an optimizer refuse.
        stack.enter_context(patch.object(torch.utils, "swap_tensors", lambda a, b: None))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(mode)
        yield mode
