"""A net of two fully connected layers for images, that of the original toolkit."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn

from nlpcl.models.base import Backbone, Site, TaskLabels, chained_sites
from nlpcl.options import Options, option
from nlpcl.ranges import Width
from nlpcl.registry import register_backbone


class MLPOptions(Options):
    """The options of the net of two fully connected layers."""

    hidden: Width = option(2000, "width of the two layers; 2000 in the original toolkit")


@register_backbone("mlp", title="two fully connected layers", modality="image")
class MLP(Backbone):
    """Pixels, dropout 0.2, then twice a fully connected layer, ReLU and dropout 0.5; trained from random weights.

    :param input_shape: (channels, height, width) of the images.
    """

    options_type = MLPOptions
    options: MLPOptions

    def __init__(self, input_shape: tuple[int, int, int], **options: Any) -> None:
        super().__init__(**options)
        self.width = hidden = self.options.hidden
        self.linears = nn.ModuleList([nn.Linear(prod(input_shape), hidden), nn.Linear(hidden, hidden)])
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(2))
        self.dropout_of_pixels = nn.Dropout(0.2)
        self.dropout = nn.Dropout(0.5)

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        self.context.start(task_labels)
        x = self.dropout_of_pixels(x.flatten(1))
        for linear, act in zip(self.linears, self.activations, strict=True):
            x = self.dropout(act(linear(x)))
        return x

    def sites(self) -> list[Site]:
        return chained_sites(("fc1", "fc2"), self.linears, self.activations)
