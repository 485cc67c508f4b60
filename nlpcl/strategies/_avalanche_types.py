"""Ranges of the options of Avalanche's own classes, whose constructors name plain numbers or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from avalanche import training

from nlpcl.ranges import Count, Positive, Share, Temperature, Weight

TYPES: dict[Callable[..., Any], dict[str, Any]] = {
    training.EWC: {
        "ewc_lambda": Weight,
        "mode": Literal["separate", "online"],
        "decay_factor": Share | None,
    },
    training.Replay: {"mem_size": Count},
    training.GEM: {"patterns_per_exp": Count, "memory_strength": Weight},
    training.AGEM: {"patterns_per_exp": Count, "sample_size": Count},
    training.LwF: {"alpha": Weight | list[Weight], "temperature": Temperature},
    training.SynapticIntelligence: {"si_lambda": Weight | list[Weight], "eps": Positive},
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
