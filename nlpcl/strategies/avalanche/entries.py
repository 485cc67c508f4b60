"""Avalanche's own strategies, under their names: `avalanche/LwF`, `avalanche/EWC`, ...

They run as Avalanche wrote them, with its optimizer handling, in float32 and at a constant learning rate.
docs/avalanche.md says which are adapted here, and which of Avalanche's strategies do not run.
"""

from __future__ import annotations

from typing import Any

from avalanche import training

from nlpcl.options import Options
from nlpcl.registry import Scenario, register_strategy
from nlpcl.strategies.avalanche import adapted, options

RUNS_ONLY: dict[str, tuple[Scenario, str]] = {
    "LFL": ("dil", "after the first task Avalanche's LFL freezes the last head of the model"),
    "CWRStar": ("dil", "after the first task Avalanche's CWRStar trains one head only"),
    "DER": ("dil", "Avalanche's DER computes its targets without task labels"),
    "GSS_greedy": ("dil", "Avalanche's GSS computes the gradients of its memory without task labels"),
    "CoPE": ("dil", "CoPE has one prototype per class in place of heads"),
    "ICaRL": ("cil", "iCaRL learns each class once, in one task"),
}
"""The scenario of a strategy that does not run in two, and why."""


def register(
    name: str, target: Any, declared: type[Options] = Options, replay: bool = False, aliases: tuple[str, ...] = ()
) -> None:
    """Register a strategy of Avalanche's under its name, with the options that are declared here or by its class."""
    scenario, reason = RUNS_ONLY.get(name, (None, ""))
    register_strategy(
        f"avalanche/{name}",
        title=f"Avalanche's {name}",
        url="https://avalanche.continualai.org",
        engine=False,
        ddp_reason="Avalanche's own classes neither share out every mini-batch nor sum what each process finds",
        options=declared,
        replay=replay,
        scenarios=(scenario,) if scenario else ("til", "dil"),
        reason=reason,
        aliases=aliases,
    )(target)


register("Naive", training.Naive)
register("Cumulative", training.Cumulative)
register("FromScratchTraining", training.FromScratchTraining, options.FromScratchOptions)
register("JointTraining", adapted.JointTraining, aliases=("avalanche/Joint",))

register("EWC", adapted.AvalancheEWC, options.AvalancheEWCOptions)
register("LwF", adapted.LwF, options.LwFOptions)
register("SynapticIntelligence", training.SynapticIntelligence, options.SIOptions, aliases=("avalanche/SI",))
register("MAS", adapted.MAS, options.MASOptions)
register("RWalk", adapted.RWalk)
register("LFL", adapted.LFL, options.LFLOptions)
register("CWRStar", adapted.CWRStar, options.CWROptions, aliases=("avalanche/CWR*", "avalanche/CWR"))

register("Replay", training.Replay, options.MemoryOptions, replay=True, aliases=("avalanche/ER",))
register("GDumb", training.GDumb, options.MemoryOptions, replay=True)
register("GEM", training.GEM, options.AvalancheGEMOptions, replay=True)
register("AGEM", adapted.AvalancheAGEM, options.AvalancheAGEMOptions, replay=True)
register("ER_ACE", training.ER_ACE, options.BatchMemoryOptions, replay=True)
register("MER", training.MER, options.MEROptions, replay=True)
register("MIR", adapted.MIR, replay=True)
register("DER", training.DER, options.DEROptions, replay=True, aliases=("avalanche/DER++",))
register("GSS_greedy", adapted.GSS_greedy, replay=True, aliases=("avalanche/GSS",))
register("CoPE", adapted.CoPE, replay=True)
register("ICaRL", adapted.ICaRL, options.ICaRLOptions, replay=True)
