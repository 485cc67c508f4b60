"""Macro-F1 as an Avalanche metric."""

from __future__ import annotations

from typing import Literal

import torch
from avalanche.evaluation import GenericPluginMetric, Metric, PluginMetric
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from nlpcl.training import distributed
from nlpcl.training.plugin import Strategy


def macro_f1(predictions: Tensor, targets: Tensor) -> float:
    """Return the unweighted mean of the per-class F1, over the classes that occur in `predictions` or `targets`.

    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c). The same as scikit-learn's default.

    :param predictions: class indices (N,), N > 0.
    :param targets: class indices (N,).
    :return: in [0, 1].
    """
    classes = int(torch.maximum(predictions, targets).max()) + 1
    return float(multiclass_f1_score(predictions, targets, num_classes=max(classes, 2), average="macro"))


class MacroF1(Metric[float]):
    """Accumulates predictions on their device; nothing is read back before `result`."""

    def __init__(self) -> None:
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a mini-batch: logits (B, C), targets (B,)."""
        self._predictions.append(logits.argmax(dim=1))
        self._targets.append(targets)

    def result(self) -> float:
        """Return the macro-F1 of all that was added in all processes; 0 if nothing was."""
        if not distributed.all_reduce_max(len(self._targets)):
            return 0.0
        return macro_f1(distributed.all_gather_ints(self._predictions), distributed.all_gather_ints(self._targets))

    def reset(self) -> None:
        """Forget what was added."""
        self._predictions, self._targets = [], []


class _MacroF1Plugin(GenericPluginMetric[float, MacroF1]):
    def __init__(self, over: Literal["experience", "stream"]) -> None:
        super().__init__(MacroF1(), reset_at=over, emit_at=over, mode="eval")
        self._over = over

    def update(self, strategy: Strategy) -> None:
        self._metric.update(strategy.mb_output, strategy.mb_y)

    def __str__(self) -> str:
        return "MacroF1_Exp" if self._over == "experience" else "MacroF1_Stream"


def macro_f1_metrics(*, experience: bool = False, stream: bool = False) -> list[PluginMetric[float]]:
    """Return macro-F1 metrics for Avalanche's `EvaluationPlugin`.

    :param experience: one value per evaluated experience, `MacroF1_Exp`.
    :param stream: one value over all samples of the evaluated stream, `MacroF1_Stream`.
    """
    metrics: list[PluginMetric[float]] = []
    if experience:
        metrics.append(_MacroF1Plugin("experience"))
    if stream:
        metrics.append(_MacroF1Plugin("stream"))
    return metrics
