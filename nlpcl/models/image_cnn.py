"""A small convolutional net for images, that of HAT (Serrà et al., ICML 2018, https://arxiv.org/abs/1801.01423).

Three convolutions, each followed by ReLU, dropout and 2x2 max-pooling, and two fully connected layers with ReLU and
dropout. Gates stand right after the ReLUs: a gate is not negative and the same for a whole feature map, so before
or after dropout and pooling it does the same.
"""

from __future__ import annotations

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


class CNNOptions(Options):
    """The options of HAT's convolutional net."""

    hidden: Width = option(2048, "width of the two fully connected layers; 2048 in HAT and in the original toolkit")


@register_backbone("cnn", title="three convolutions and two fully connected layers", modality="image")
class ImageCNN(Backbone):
    """HAT's convolutional net, trained from random weights.

    :param input_shape: (channels, height, width) of the images, which must be square.
    :raises UsageError: the images are not square, or too small for three convolutions.
    """

    options_type = CNNOptions
    options: CNNOptions

    def __init__(self, input_shape: tuple[int, int, int], **options: Any) -> None:
        super().__init__(**options)
        channels, height, width = input_shape
        side = side_after(height)
        if height != width or side < 1:
            raise UsageError(f"cnn needs square images of at least 12 pixels a side, not {height} x {width}.")
        self.width = hidden = self.options.hidden
        kernels = _kernel_sizes(height)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n_in, n_out, kernel)
            for n_in, n_out, kernel in zip((channels, *_CHANNELS), _CHANNELS, kernels, strict=False)
        )
        self.after_convolutions = nn.ModuleList(nn.Sequential(nn.Dropout(p), nn.MaxPool2d(2)) for p in _DROPOUT)
        self.linears = nn.ModuleList([nn.Linear(_CHANNELS[-1] * side**2, hidden), nn.Linear(hidden, hidden)])
        self.dropout = nn.Dropout(0.5)
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(5))

    def features(self, x: Tensor, task_labels: TaskLabels) -> Tensor:
        self.context.start(task_labels)
        for convolution, act, after in zip(self.convolutions, self.activations, self.after_convolutions, strict=False):
            x = after(act(convolution(x)))
        x = x.flatten(1)
        for linear, act in zip(self.linears, self.activations[3:], strict=True):
            x = self.dropout(act(linear(x)))
        return x

    def sites(self) -> list[Site]:
        names = ("conv1", "conv2", "conv3", "fc1", "fc2")
        return chained_sites(names, (*self.convolutions, *self.linears), self.activations)
