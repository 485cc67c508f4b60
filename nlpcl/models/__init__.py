"""Backbones, heads, gates and capsules."""

from __future__ import annotations

from typing import Any

from nlpcl.models.adapters import Adapter, BertAdapter
from nlpcl.models.base import Backbone, Context, ContinualModel, Site, row_factor, weight_factor
from nlpcl.models.heads import SharedHead, TaskHeads
from nlpcl.registry import backbones


def build_model(
    benchmark: Any, backbone: str | Backbone = "bert_adapter", encoder: str = "minilm", **options: Any
) -> ContinualModel:
    """A model for a benchmark: a backbone, and the heads the benchmark's tasks need.

    :param benchmark: made by this package; its `scenario` and `n_classes` decide the heads.
    :param backbone: a backbone or the name of one.
    :param encoder: the encoder of a named backbone.
    :param options: further options of a named backbone.
    """
    if isinstance(backbone, str):
        backbone = backbones.get(backbone).target(encoder, **options)
    assert isinstance(backbone, Backbone)
    classes: list[int] = benchmark.n_classes
    if benchmark.scenario == "til":
        return ContinualModel(backbone, TaskHeads(backbone.width, classes))
    return ContinualModel(backbone, SharedHead(backbone.width, max(classes), len(classes)))


__all__ = [
    "Adapter",
    "Backbone",
    "BertAdapter",
    "Context",
    "ContinualModel",
    "SharedHead",
    "Site",
    "TaskHeads",
    "build_model",
    "row_factor",
    "weight_factor",
]
