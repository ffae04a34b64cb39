"""The residual network for CIFAR-10 from fast.ai's lesson 12 of 2018, named after Darknet-53 of YOLOv3."""

from collections.abc import Sequence

from torch import Tensor, nn

from trainers.families.classification.layers import ConvLayers

LESSON = ConvLayers("conv_norm_act", norm_momentum=0.1, leaky_slope=0.1)
"""As in the lesson, whose momentum is 0.01: running averages then lag behind a run of few steps."""


class Darknet(nn.Module):
    """Images (rows, channels, height, width) to logits (rows, classes).

    `blocks` are the residual layers of each group, of `convs` convolutions each, `inner` is the ratio of their inner to
    their outer channels, and `stride_one` the group (from 0) that keeps the grid; the others halve it. A group has
    `multiplier` times the channels of the one before. The lesson uses [1, 2, 4, 6, 3], 2, 1/2, 1 and 2.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        first_width: int,
        inner: float,
        stride_one: int,
        channels: int,
        classes: int,
        kernel_size: int = 3,
        convs: int = 2,
        multiplier: float = 2.0,
        layers: ConvLayers = LESSON,
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = [layers.stem(channels, first_width)]
        widths = group_widths(first_width, multiplier, len(blocks))
        for group, (count, before, width) in enumerate(zip(blocks, widths, widths[1:], strict=False)):
            parts.append(layers.layer(before, width, 3, stride=1 if group == stride_one else 2))
            parts += [ResLayer(width, inner, kernel_size, convs, layers) for _ in range(count)]
        last = widths[-1]
        self.main = nn.Sequential(
            *parts, *layers.before(last), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.main(images)
        return logits


class ResLayer(nn.Module):
    """Convolutions added to the input, with nothing after the sum.

    Of two or more, the first one is 1x1 if it narrows (`inner` < 1) and otherwise as large as the others, as in Wide
    ResNet.
    """

    def __init__(
        self, width: int, inner: float, kernel_size: int = 3, convs: int = 2, layers: ConvLayers = LESSON
    ) -> None:
        super().__init__()
        widths = [width, *[max(1, round(width * inner))] * (convs - 1), width]
        sizes = [1 if inner < 1 and convs > 1 else kernel_size, *[kernel_size] * (convs - 1)]
        self.residual = nn.Sequential(*map(layers.layer, widths, widths[1:], sizes))

    def forward(self, images: Tensor) -> Tensor:
        added: Tensor = images + self.residual(images)  # not in place: both are kept for backward
        return added


def group_widths(first_width: int, multiplier: float, groups: int) -> list[int]:
    """Channels before the first group, and of each group."""
    return [round(first_width * multiplier**group) for group in range(groups + 1)]
