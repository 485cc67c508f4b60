"""Avalanche metrics that ours and Avalanche's evaluators use side by side."""

from nlpcl.evaluation.macro_f1 import MacroF1, macro_f1, macro_f1_metrics
from nlpcl.evaluation.matrix import MatrixMetric

__all__ = ["MacroF1", "MatrixMetric", "macro_f1", "macro_f1_metrics"]
