"""NCL, naive continual learning: one task after another, nothing done against forgetting.

Loss: CE(head_t(x), y). The lower bound every method is measured against; stores nothing.
"""

from __future__ import annotations

from nlpcl.registry import register_strategy
from nlpcl.training.strategy import ContinualStrategy


@register_strategy("ncl", title="naive continual learning (fine-tuning in sequence)", ddp=True)
class NCL(ContinualStrategy):
    """Naive continual learning."""
