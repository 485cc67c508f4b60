"""Which strategy runs on which backbone, and which pairs the original toolkit documents.

The pairs are those of PyContinual's documentation (main branch): 18 methods, 68 pairs on language and 18 on images,
whether its code has them or not. GEM, which it does not mention, is in its code on two backbones. Its `a-gem` is `agem`
here, its `b-cl` is `bcl`.
"""

from __future__ import annotations

from collections.abc import Mapping

from nlpcl.registry import Scenario, backbones, strategies

PYCONTINUAL = "https://github.com/ZixuanKe/PyContinual"
LANGUAGE = ("bert", "bert_frozen", "bert_adapter", "w2v", "w2v_as")
IMAGE = ("cnn", "mlp")
GRU = ("bert_frozen", "w2v", "w2v_as")

DOCUMENTED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ncl", "one", "mtl", "l2"), LANGUAGE),
    **dict.fromkeys(("agem", "derpp", "ewc", "hal", "ucl", "owm", "hat"), LANGUAGE + IMAGE),
    **dict.fromkeys(("kan", "srk"), GRU),
    **dict.fromkeys(("bcl", "classic", "ctr"), ("bert_adapter",)),
    "gem": ("bert_frozen", "bert_adapter"),
    "acl": IMAGE,
    "cat": ("bert", *GRU, *IMAGE),
}


def strategy_matrix() -> dict[str, dict[str, tuple[Scenario, ...]]]:
    """Return by strategy and backbone the scenarios in which the pair runs, as registered; empty if it does not."""
    names = backbones.names()
    return {
        entry.name: {
            name: entry.scenarios if entry.backbones is None or name in entry.backbones else () for name in names
        }
        for entry in strategies.entries()
    }


def missing(matrix: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the documented pairs that do not run here, as `method on backbone`.

    :param matrix: by method and backbone the scenarios in which it runs.
    """
    return [
        f"{method} on {backbone}"
        for method, of_method in DOCUMENTED.items()
        for backbone in of_method
        if not matrix.get(method, {}).get(backbone)
    ]
