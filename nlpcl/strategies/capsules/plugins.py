"""What B-CL and CTR share: capsule plug-ins at the adapters' places, and which of their parameters train."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from nlpcl.models.adapters import BertAdapter
from nlpcl.ranges import Few, Rate
from nlpcl.strategies._shared.adapters import adapter_backbone
from nlpcl.strategies._shared.masks import ORIGINAL_GATES, MaskPlugin, MaskStrategy, Presets
from nlpcl.strategies.capsules.layers import CapsuleAdapter, DynamicRouting, TaskCapsules, TransferRouting

Routing = DynamicRouting | TransferRouting
ORIGINAL_CAPSULES: Presets = (
    *ORIGINAL_GATES,
    ({"options.parity": "True"}, {"options": {"routing_learning_rate": None}}),
)
"""What `parity` means for capsule plug-ins, so that a spec says what is run."""


class CapsulePlugin(MaskPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """HAT's masks on the plug-ins; routing goes on training, and maps of tasks to come do not move."""

    @property
    def adapters(self) -> list[CapsuleAdapter]:
        """The plug-ins."""
        return cast(list[CapsuleAdapter], cast(BertAdapter, self.backbone).adapters())

    def factors(self, task: int) -> dict[nn.Parameter, Tensor]:
        factors = super().factors(task)
        for adapter in self.adapters:
            for p in adapter.tasks.parameters():
                known = torch.arange(p.shape[0], device=p.device) <= task
                factors[p] = known.to(p.dtype).reshape(-1, *[1] * (p.dim() - 1))
        return factors

    def shared(self) -> list[nn.Parameter]:
        return [p for adapter in self.adapters for p in adapter.routing.parameters()]


class CapsuleStrategy(MaskStrategy):
    """A strategy that lives in capsule plug-ins at the adapters' places.

    :param capsule_size: length of a capsule; 3 in the original toolkit.
    :param capsules: number of capsules that the tasks' capsules are routed to; 3 in the original toolkit.
    :param routing_learning_rate: learning rate of task capsules and routing where no mask protects them; None: the
        optimizer's, as in the original toolkit.
    """

    plugin = CapsulePlugin

    def __init__(
        self,
        *,
        model: Any,
        optimizer: Any,
        capsule_size: Few = 3,
        capsules: Few = 3,
        routing_learning_rate: Rate | None = None,
        parity: bool = False,
        **mask_kwargs: Any,
    ) -> None:
        backbone, n_tasks = adapter_backbone(model, type(self).__name__), model.n_tasks

        def plug_in(hidden: int) -> CapsuleAdapter:
            tasks = TaskCapsules(hidden, n_tasks, capsule_size, capsules)
            routing = self.routing(hidden, capsule_size, capsules, parity)
            return CapsuleAdapter(hidden, backbone.options.adapter_size, backbone.context, tasks, routing)

        backbone.set_adapters(plug_in)
        if routing_learning_rate is not None:
            at_sites = {id(p) for site in backbone.sites() for p in site.module.parameters()}
            adapters = cast(list[CapsuleAdapter], backbone.adapters())
            own = [p for a in adapters for p in [*a.tasks.parameters(), *a.routing.parameters()]]
            slow = [p for p in own if id(p) not in at_sites]
            optimizer.add_param_group({"params": slow, "lr": routing_learning_rate})
        super().__init__(model=model, optimizer=optimizer, parity=parity, **mask_kwargs)

    @abstractmethod
    def routing(self, hidden: int, size: int, capsules: int, parity: bool) -> Routing:
        """What makes knowledge of the task capsules' votes."""
