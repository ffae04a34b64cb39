"""The residual network for CIFAR-10 from fast.ai's lesson 12 of 2018, named after Darknet-53 of YOLOv3."""

from collections.abc import Sequence

from torch import Tensor, nn


class Darknet(nn.Module):
    """Images (rows, channels, height, width) to logits (rows, classes); each group doubles the channels.

    `blocks` are the residual layers of each group, `inner` is the ratio of their inner to their outer channels, and
    `stride_one` the group (from 0) that keeps the grid; the others halve it. The lesson uses [1, 2, 4, 6, 3], 1/2 and
    1.
    """

    def __init__(
        self, blocks: Sequence[int], first_width: int, inner: float, stride_one: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_layer(channels, first_width, 3)]
        width = first_width
        for group, count in enumerate(blocks):
            layers.append(conv_layer(width, 2 * width, 3, stride=1 if group == stride_one else 2))
            width *= 2
            layers += [ResLayer(width, inner) for _ in range(count)]
        self.main = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.main(images)
        return logits


class ResLayer(nn.Module):
    """Two convolutions added to the input, with nothing after the sum.

    The first one is 1x1 if it narrows (`inner` < 1) and otherwise 3x3, as in Wide ResNet.
    """

    def __init__(self, width: int, inner: float) -> None:
        super().__init__()
        middle = max(1, round(width * inner))
        self.residual = nn.Sequential(conv_layer(width, middle, 1 if inner < 1 else 3), conv_layer(middle, width, 3))

    def forward(self, images: Tensor) -> Tensor:
        added: Tensor = images + self.residual(images)  # not in place: both are kept for backward
        return added


def conv_layer(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),  # at 0.01, as in the lesson, running averages lag behind a run of few steps
        nn.LeakyReLU(0.1, inplace=True),
    )
