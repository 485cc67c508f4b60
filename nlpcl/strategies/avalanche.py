"""Avalanche's own strategies, under their names: `avalanche/LwF`, `avalanche/EWC`, ...

They run as Avalanche wrote them, with its optimizer handling, in float32 and at a constant learning rate. Where a
class has an option without a default, one is given here so that the name alone works.
"""

from __future__ import annotations

from typing import Any

from avalanche import training

from nlpcl.registry import register_strategy

# Options to which Avalanche gives no default. LwF: alpha and temperature of Li and Hoiem 2017; the others are ours.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Naive": {},
    "EWC": {"ewc_lambda": 1.0},
    "Replay": {},
    "GEM": {"patterns_per_exp": 64},
    "AGEM": {"patterns_per_exp": 64},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "SynapticIntelligence": {"si_lambda": 1.0},
    "MAS": {},
    "DER": {},
}

for _name, _defaults in DEFAULTS.items():
    register_strategy(
        f"avalanche/{_name}",
        title=f"Avalanche's {_name}",
        url="https://avalanche.continualai.org",
        scenarios=("dil",) if _name == "DER" else ("til", "dil"),
        reason="Avalanche's DER computes its targets without task labels" if _name == "DER" else "",
        replay=_name in {"Replay", "GEM", "AGEM", "DER"},
        engine=False,
        defaults=_defaults,
    )(getattr(training, _name))
