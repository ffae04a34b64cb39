"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146), for images of any size."""

import torch
from torch import Tensor, nn


class WideResNet(nn.Module):
    """Images (rows, channels, height, width) to logits (rows, classes); depth is 6 n + 4 (Zagoruyko 2016, table 1)."""

    def __init__(self, depth: int, widen_factor: int, dropout: float, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        before = 16
        for after, first_stride in ((16 * widen_factor, 1), (32 * widen_factor, 2), (64 * widen_factor, 2)):
            for stride in [first_stride] + [1] * ((depth - 4) // 6 - 1):
                blocks.append(Block(before, after, stride, dropout))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(before, classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.head(self.blocks(self.stem(images))))
        return logits


class Block(nn.Module):
    """Twice norm, ReLU, 3x3 convolution, added to the input: `basic-wide`, `wide-dropout` (figure 1)."""

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(True))
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(True),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        changes = before != after or stride != 1
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        activated = self.activate(images)
        shortcut = images if self.shortcut is None else self.shortcut(activated)  # as in the authors' code
        added: Tensor = self.residual(activated).add_(shortcut)  # in place: a convolution keeps no output for backward
        return added


@torch.no_grad()
def initialise(layer: nn.Module) -> None:
    """Filters N(0, 2 / (outputs * kernel area)), the linear layer's bias 0, as in the authors' code."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        layer.bias.zero_()
