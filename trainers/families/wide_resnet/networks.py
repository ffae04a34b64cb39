"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146), for images of any size."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainers.families.classification.layers import ConvLayers, convolution

PAPER = ConvLayers("norm_act_conv", norm_momentum=0.1, leaky_slope=0.0)


class WideResNet(nn.Module):
    """Images (rows, channels, height, width) to logits (rows, classes) (Zagoruyko 2016, table 1).

    `depth` is groups * convs * n + groups + 1, for n blocks of `convs` convolutions in each group: in the paper
    6 n + 4. A group has `multiplier` times the channels of the one before, and all but the first halve the grid.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        dropout: float,
        channels: int,
        classes: int,
        kernel_size: int = 3,
        convs: int = 2,
        groups: int = 3,
        multiplier: float = 2.0,
        layers: ConvLayers = PAPER,
    ) -> None:
        super().__init__()
        stem = layers.stem(channels, 16)
        self.stem = stem if len(stem) > 1 else stem[0]
        count = (depth - groups - 1) // (groups * convs)
        widths = [16, *(round(16 * widen_factor * multiplier**group) for group in range(groups))]
        blocks: list[nn.Module] = []
        for group, (before, after) in enumerate(pairwise(widths)):
            blocks.append(Block(before, after, 2 if group else 1, dropout, kernel_size, convs, layers))
            blocks += [Block(after, after, 1, dropout, kernel_size, convs, layers) for _ in range(count - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*layers.before(widths[-1]), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(widths[-1], classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.head(self.blocks(self.stem(images))))
        return logits


class Block(nn.Module):
    """Convolutions added to the input, in the paper twice norm, ReLU, 3x3: `basic-wide`, `wide-dropout` (figure 1).

    Dropout precedes all convolutions but the first, or the only one.
    """

    def __init__(
        self, before: int, after: int, stride: int, dropout: float, kernel_size: int, convs: int, layers: ConvLayers
    ) -> None:
        super().__init__()
        self.activate = nn.Sequential(*layers.before(before))
        parts: list[nn.Module] = [nn.Dropout(dropout)] if dropout and convs == 1 else []
        parts += [convolution(before, after, kernel_size, stride), *layers.after(after)]
        for _ in range(convs - 1):
            parts += layers.layer(after, after, kernel_size, dropout=dropout)
        self.residual = nn.Sequential(*parts)
        changes = before != after or stride != 1
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        activated = self.activate(images)
        shortcut = images if self.shortcut is None else self.shortcut(activated)  # as in the authors' code
        residual: Tensor = self.residual(activated)
        if isinstance(self.residual[-1], nn.Conv2d):
            return residual.add_(shortcut)  # in place: a convolution keeps no output for backward
        return residual + shortcut


@torch.no_grad()
def initialise(layer: nn.Module) -> None:
    """Filters N(0, 2 / (outputs * kernel area)), the linear layer's bias 0, as in the authors' code."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        layer.bias.zero_()
