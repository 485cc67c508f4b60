"""What Avalanche's own strategies leave unchecked: the ranges of their options, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from avalanche import training
from pydantic import Field
from torch import nn

from nlpcl.errors import UsageError
from nlpcl.ranges import Count, Positive, Share, Temperature, Weight

Weights = Annotated[list[Weight], Field(min_length=1)]


class EWC(training.EWC):
    """Elastic weight consolidation (Kirkpatrick et al. 2017)."""

    def __init__(
        self, *, mode: Literal["separate", "online"] = "separate", decay_factor: Share | None = None, **kwargs: Any
    ) -> None:
        if (mode == "online") != (decay_factor is not None):
            raise UsageError("EWC takes a decay_factor with mode=online, and only there.")
        super().__init__(mode=mode, decay_factor=decay_factor, **kwargs)


class AGEM(training.AGEM):
    """Averaged gradient episodic memory (Chaudhry et al. 2019)."""

    def __init__(self, *, model: nn.Module, sample_size: Count = 64, **kwargs: Any) -> None:
        tasks = getattr(model, "n_tasks", 1)
        if sample_size < tasks:
            raise UsageError(f"AGEM draws from each task's memory: sample_size={tasks} or more.")
        super().__init__(model=model, sample_size=sample_size, **kwargs)


class LwF(training.LwF):
    """Learning without forgetting (Li and Hoiem 2017)."""

    def __init__(self, *, model: nn.Module, alpha: Weight | Weights, **kwargs: Any) -> None:
        tasks = getattr(model, "n_tasks", 1)
        if isinstance(alpha, list) and len(alpha) < tasks:
            raise UsageError(f"LwF takes one alpha, or one for each of the {tasks} tasks, not {len(alpha)}.")
        super().__init__(model=model, alpha=alpha, **kwargs)


TYPES: dict[Callable[..., Any], dict[str, Any]] = {
    EWC: {"ewc_lambda": Weight},
    training.Replay: {"mem_size": Count},
    training.GEM: {"patterns_per_exp": Count, "memory_strength": Weight},
    AGEM: {"patterns_per_exp": Count},
    LwF: {"temperature": Temperature},
    training.SynapticIntelligence: {"si_lambda": Weight | Weights, "eps": Positive},
    training.DER: {"mem_size": Count, "batch_size_mem": Count | None, "alpha": Weight, "beta": Weight},
    training.MER: {
        "mem_size": Count,
        "batch_size_mem": Count,
        "n_inner_steps": Count,
        "beta": Share,
        "gamma": Share,
    },
    training.GDumb: {"mem_size": Count},
    training.ER_ACE: {"mem_size": Count, "batch_size_mem": Count},
}
