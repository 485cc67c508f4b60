"""Nets for images, trained from random weights.

`mlp`, that of the original toolkit, has two fully connected layers. `cnn`, that of HAT (Serrà et al., ICML 2018,
https://arxiv.org/abs/1801.01423), has three convolutions before them, each followed by ReLU, dropout and 2x2
max-pooling. ReLU and dropout follow the fully connected layers, too. Gates stand right after the ReLUs: a gate is not
negative and the same for a whole feature map, so before or after dropout and pooling it does the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from nlpcl.errors import UsageError
from nlpcl.models.base import Backbone, Site, TaskLabels, chained_sites
from nlpcl.options import Options, option
from nlpcl.ranges import Width
from nlpcl.registry import register_backbone

_CHANNELS = (64, 128, 256)
_DROPOUT = (0.2, 0.2, 0.5)


def _kernel_sizes(size: int) -> tuple[int, int, int]:
    """Return the kernels of the three convolutions for images of `size` pixels a side."""
    return size // 8, size // 10, 2


def side_after(size: int) -> int:
    """Return the side of the feature maps after the last pooling; below 1 if the image is too small."""
    for kernel in _kernel_sizes(size):
        size = (size - kernel + 1) // 2 if kernel else 0
    return size


class _ImageBackbone(Backbone):
    """Convolutions, if any, and two fully connected layers of one width, each followed by ReLU and dropout 0.5.

    :param convolutions: the first layers, in order.
    :param inputs: number of inputs of the first fully connected layer.
    """

    def __init__(self, convolutions: Sequence[nn.Module], inputs: int, **options: Any) -> None:
        super().__init__(**options)
        self.width = hidden = self.options.hidden
        self.convolutions = nn.ModuleList(convolutions)
        self.linears = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)])
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(len(convolutions) + 2))
        self.dropout = nn.Dropout(0.5)

    @abstractmethod
    def inputs(self, x: Tensor) -> Tensor:
        """Return what the fully connected layers read of images (B, C, H, W), (B, inputs)."""

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        self.context.start(task_labels)
        x = self.inputs(x)
        for linear, act in zip(self.linears, self.activations[-2:], strict=True):
            x = self.dropout(act(linear(x)))
        return x

    def sites(self) -> list[Site]:
        names = [f"conv{i}" for i in range(1, len(self.convolutions) + 1)]
        return chained_sites((*names, "fc1", "fc2"), (*self.convolutions, *self.linears), self.activations, 1)


class MLPOptions(Options):
    """The options of the net of two fully connected layers."""

    hidden: Width = option(2000, "width of the two layers; 2000 in the original toolkit")


@register_backbone("mlp", title="two fully connected layers", modality="image")
class MLP(_ImageBackbone):
    """Pixels, dropout 0.2, then twice a fully connected layer, ReLU and dropout 0.5.

    :param input_shape: (channels, height, width) of the images.
    """

    options_type = MLPOptions
    options: MLPOptions

    def __init__(self, input_shape: tuple[int, int, int], **options: Any) -> None:
        super().__init__((), prod(input_shape), **options)
        self.dropout_of_pixels = nn.Dropout(0.2)

    def inputs(self, x: Tensor) -> Tensor:
        pixels: Tensor = self.dropout_of_pixels(x.flatten(1))
        return pixels


class CNNOptions(Options):
    """The options of HAT's convolutional net."""

    hidden: Width = option(2048, "width of the two fully connected layers; 2048 in HAT and in the original toolkit")


@register_backbone("cnn", title="three convolutions and two fully connected layers", modality="image")
class ImageCNN(_ImageBackbone):
    """HAT's convolutional net.

    :param input_shape: (channels, height, width) of the images, which must be square.
    :raises UsageError: the images are not square, or too small for three convolutions.
    """

    options_type = CNNOptions
    options: CNNOptions

    def __init__(self, input_shape: tuple[int, int, int], **options: Any) -> None:
        channels, height, width = input_shape
        side = side_after(height)
        if height != width or side < 1:
            raise UsageError(f"cnn needs square images of at least 12 pixels a side, not {height} x {width}.")
        sizes = zip((channels, *_CHANNELS[:-1]), _CHANNELS, _kernel_sizes(height), strict=True)
        super().__init__([nn.Conv2d(*size) for size in sizes], _CHANNELS[-1] * side**2, **options)
        self.after_convolutions = nn.ModuleList(nn.Sequential(nn.Dropout(p), nn.MaxPool2d(2)) for p in _DROPOUT)

    def inputs(self, x: Tensor) -> Tensor:
        for convolution, act, after in zip(self.convolutions, self.activations, self.after_convolutions, strict=False):
            x = after(act(convolution(x)))
        return x.flatten(1)
