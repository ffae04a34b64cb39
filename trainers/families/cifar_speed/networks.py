"""A small fast network for 32x32 images (Jordan 2024, section 3.1, after Page 2019)."""

import torch
from torch import Tensor, nn


class FastNet(nn.Module):
    """Images (rows, channels, 32, 32) to logits; the first layer whitens patches of 2x2 and is not trained."""

    def __init__(self, widths: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        patch = channels * 4
        self.whiten = nn.Conv2d(channels, 2 * patch, 2)
        self.whiten.weight.requires_grad = False
        with torch.no_grad():
            self.whiten.bias.zero_()  # type: ignore[union-attr]
        groups = [Group(before, after) for before, after in zip((2 * patch, *widths), widths, strict=False)]
        self.groups = nn.Sequential(nn.GELU(), *groups, nn.MaxPool2d(3), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.groups(self.whiten(images))) / 9
        return logits


class Group(nn.Module):
    """conv - pool - norm - GELU - conv - norm - GELU; norms have a bias and no scale."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            filters(before, after),
            nn.MaxPool2d(2),
            norm(after),
            nn.GELU(),
            filters(after, after),
            norm(after),
            nn.GELU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        seen: Tensor = self.main(images)
        return seen


def filters(before: int, after: int) -> nn.Conv2d:
    """Filters of 3x3, the first of which are identities (Jordan 2024, section 3.3)."""
    layer = nn.Conv2d(before, after, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:before])
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, momentum=0.4)
    layer.weight.requires_grad = False
    return layer


def whitening(pixels: Tensor, mean: Tensor, deviation: Tensor, epsilon: float = 5e-4) -> Tensor:
    """Filters (2 * channels * 4, channels, 2, 2) that decorrelate patches of 2x2, and their negatives.

    `pixels` (rows, channels, height, width), uint8, which the network sees minus `mean` and divided by `deviation`
    (channels,), both in units of pixel values. Eigenvectors of the patches' covariance over the root of their
    eigenvalues (Jordan 2024, section 3.2).

    The same on every kind of processor: sums of integers are exact in any order, an eigenvector's largest number is
    made positive, and rounding to float32 removes differences in the last digits of the eigendecomposition.
    """
    channels = pixels.shape[1]
    patches = pixels.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * 4)
    mean, deviation = (part.double().repeat_interleave(4) for part in (mean, deviation))
    sums = patches.sum(0)
    products = patches.T @ patches - mean[:, None] * sums - sums[:, None] * mean
    covariance = (products / len(patches) + mean[:, None] * mean) / (deviation[:, None] * deviation)
    values, vectors = torch.linalg.eigh(covariance)
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    own = (vectors / (values + epsilon).sqrt()).T.reshape(-1, channels, 2, 2).flip(0).float()
    return torch.cat([own, -own])
