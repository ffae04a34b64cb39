"""The generator and the discriminator of DCGAN (Radford et al. 2016, section 3), for any image size 4 * 2^k."""

import math

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Latent (rows, latent, 1, 1) to images (rows, channels, size, size) in [-1, 1]."""

    def __init__(self, latent: int, width: int, channels: int, size: int, upsample: str) -> None:
        super().__init__()
        widths = [width << level for level in reversed(range(int(math.log2(size)) - 2))]
        layers: list[nn.Module] = [Project(latent, widths[0])]
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
            if upsample == "transposed":
                layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)]
            else:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1, bias=False)]
        self.main = nn.Sequential(*layers, nn.Tanh()).apply(initialise)

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.main(latent)
        return images


class Project(nn.Module):
    """Latent to a first image of 4x4: a matrix product, reshaped (Radford et al. 2016, figure 1)."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent, 16 * channels, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.linear(latent.flatten(1)).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        return images


class Discriminator(nn.Module):
    """Images (rows, channels, size, size) in [-1, 1] to logits (rows,) of being real."""

    def __init__(self, width: int, channels: int, size: int) -> None:
        super().__init__()
        widths = [width << level for level in range(int(math.log2(size)) - 2)]
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            norm = [nn.BatchNorm2d(after)] if layers else []  # none on the input layer
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), *norm, nn.LeakyReLU(0.2, True)]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, bias=False)).apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.main(images).flatten()
        return logits


@torch.no_grad()
def initialise(layer: nn.Module) -> None:
    """Weights and filters N(0, 0.02), batch norm weights N(1, 0.02) (Radford et al. 2016, section 4)."""
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        layer.weight.normal_(0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.weight.normal_(1, 0.02)
