"""What B-CL and CTR share: capsule plug-ins at the adapters' places, and which of their parameters train."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nlpcl.models.adapters import BertAdapter
from nlpcl.models.base import continual_model
from nlpcl.options import option
from nlpcl.ranges import Few, Rate
from nlpcl.strategies._shared.backbones import adapter_backbone
from nlpcl.strategies._shared.masks import ORIGINAL_GATES, GatePlugin, GateStrategy, MaskOptions, MaskPlugin
from nlpcl.strategies.capsules.layers import CapsuleAdapter, DynamicRouting, TaskCapsules, TransferRouting

Routing = DynamicRouting | TransferRouting
ORIGINAL_CAPSULES = (
    *ORIGINAL_GATES,
    ({"options.parity": "True"}, {"options": {"routing_learning_rate": None}}),
)
"""What `parity` means for capsule plug-ins, so that a spec says what is run."""


class CapsuleOptions(MaskOptions):
    """The options of a method with task capsules."""

    capsule_size: Few = option(3, "length of a capsule; 3 in the original toolkit")
    capsules: Few = option(3, "number of capsules that the tasks' capsules are routed to; 3 in the original toolkit")
    routing_learning_rate: Rate | None = option(
        None,
        "learning rate of task capsules and routing where no mask protects them, or null for the optimizer's, as in "
        "the original toolkit",
    )


class CapsulePlugin(MaskPlugin):
    """Puts HAT's masks on the plug-ins; routing goes on training, and maps of tasks to come do not move."""

    options_type = CapsuleOptions
    options: CapsuleOptions

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


class CapsuleStrategy(GateStrategy):
    """A strategy that lives in capsule plug-ins at the adapters' places."""

    plugin_type = CapsulePlugin
    options: CapsuleOptions

    def make_plugin(self, model: nn.Module, optimizer: Optimizer) -> GatePlugin:
        model = continual_model(model, type(self).__name__)
        backbone = adapter_backbone(model, type(self).__name__)
        n_tasks, size, capsules = model.n_tasks, self.options.capsule_size, self.options.capsules

        def plug_in(hidden: int) -> CapsuleAdapter:
            tasks = TaskCapsules(hidden, n_tasks, size, capsules)
            return CapsuleAdapter(
                hidden, backbone.options.adapter_size, backbone.context, tasks, self.make_routing(hidden)
            )

        backbone.set_adapters(plug_in)
        if self.options.routing_learning_rate is not None:
            at_sites = {id(p) for site in backbone.sites() for p in site.module.parameters()}
            adapters = cast(list[CapsuleAdapter], backbone.adapters())
            of_capsules = [p for a in adapters for p in [*a.tasks.parameters(), *a.routing.parameters()]]
            slow = [p for p in of_capsules if id(p) not in at_sites]
            optimizer.add_param_group({"params": slow, "lr": self.options.routing_learning_rate})
        return super().make_plugin(model, optimizer)

    @abstractmethod
    def make_routing(self, hidden: int) -> Routing:
        """Return the module that makes knowledge (B, L, hidden) of the task capsules' votes."""
