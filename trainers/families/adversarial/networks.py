"""The networks of DCGAN (Radford et al. 2016, section 3), for any image size 4 * 2^k, and of similar families.

A generator gets a class as additional inputs besides the latent ones (Mirza and Osindero 2014, section 3.2). A critic's
score of an image and a class is that of the image plus the product of its last features with a vector of the class: the
projection of Miyato and Koyama 2018, section 3, whose results are better than those of a class among the inputs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, interpolate

SLOPE = 0.2  # of the critics' activation below zero


class Generator(nn.Module):
    """Latent (rows, latent, 1, 1), and labels (rows,) if there are classes, to images (rows, channels, size, size) in
    [-1, 1]."""

    def __init__(
        self,
        latent: int,
        width: int,
        channels: int,
        size: int,
        upsample: str = "transposed",
        classes: int = 0,
        extra: int = 0,
        norm_after: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.classes = classes
        widths = [width << level for level in reversed(range(int(math.log2(size)) - 2))]

        def active(channels: int) -> list[nn.Module]:
            if not norm:
                return [nn.ReLU(inplace=True)]
            both = [nn.BatchNorm2d(channels), nn.ReLU(inplace=not norm_after)]
            return both[::-1] if norm_after else both

        layers: list[nn.Module] = [Project(latent + classes, widths[0])]
        for level, (before, after) in enumerate(zip(widths, [*widths[1:], channels], strict=True)):
            layers += active(before)
            for _ in range(extra if after == channels else 0):
                layers += [nn.Conv2d(before, before, 3, padding=1, bias=False), *active(before)]
            if upsample == "transposed":
                layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)]
            else:
                layers += [upsampling(upsample, 4 << level), nn.Conv2d(before, after, 3, padding=1, bias=False)]
        self.main = nn.Sequential(*layers, nn.Tanh()).apply(initialise)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.main(with_class(latent, labels, self.classes))
        return images


def upsampling(mode: str, side: int) -> nn.Module:
    """Doubles images of this side; `mode` is nearest, bilinear or bicubic."""
    return nn.Upsample(scale_factor=2) if mode == "nearest" else SmoothUpsampling(mode, side)


class SmoothUpsampling(nn.Module):
    """Images (rows, channels, side, side) to twice the side, as `interpolate` makes them without aligned corners.

    By products with a matrix, whose gradients are the same in every pass: those of `interpolate` are not on GPUs.
    """

    def __init__(self, mode: str, side: int) -> None:
        super().__init__()
        one_axis = interpolate(torch.eye(side)[None, None], size=(2 * side, side), mode=mode, align_corners=False)
        self.matrix: Tensor
        self.register_buffer("matrix", one_axis[0, 0], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.matrix @ images @ self.matrix.T


class Project(nn.Module):
    """Latent to a first image of 4x4: a matrix product, reshaped (Radford et al. 2016, figure 1)."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent, 16 * channels, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.linear(latent.flatten(1)).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        return images


class Critic(nn.Module):
    """Images (rows, channels, size, size) in [-1, 1], and labels (rows,) if there are classes, to scores (rows,).

    Higher scores are more real. Serves as DCGAN's discriminator, whose scores are logits, and as the critic of
    Wasserstein GANs.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        size: int,
        norm: bool = True,
        classes: int = 0,
        extra: int = 0,
        norm_after: bool = False,
        head: str = "conv",
    ) -> None:
        super().__init__()
        widths = [width << level for level in range(int(math.log2(size)) - 2)]

        def active(channels: int, norm: bool) -> list[nn.Module]:
            act = nn.LeakyReLU(SLOPE, inplace=not norm_after)
            if not norm:
                return [act]
            return [act, nn.BatchNorm2d(channels)] if norm_after else [nn.BatchNorm2d(channels), act]

        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            first = not layers  # without norm
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), *active(after, norm and not first)]
            for _ in range(extra if first else 0):
                layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), *active(after, norm)]
        last = nn.Conv2d(widths[-1], 1, 4, bias=False) if head == "conv" else PooledHead(widths[-1])
        self.main = nn.Sequential(*layers, last).apply(initialise)
        self.of_class = nn.Embedding(classes, widths[-1]).apply(initialise) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None, mixed: Tensor | None = None) -> Any:
        """Scores (rows,) of the images. With `mixed`, also the slopes there, with the labels of the first rows."""
        scores = self.score(images, labels)
        return scores if mixed is None else (scores, self.slopes(mixed, labels_of(mixed, labels)))

    def score(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.main[:-1](images)
        scores: Tensor = self.main[-1](features).flatten()
        if self.of_class is not None and labels is not None:
            scores = scores + (features.sum((2, 3)) * self.of_class(labels)).sum(1)
        return scores

    def slopes(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The gradient of each image's score by its pixels, (rows, channels, size, size), for a critic without norms.

        Such a critic is piecewise linear: its slopes are products of its filters, from the last to the first, and their
        own gradients need no double backward. `slopes_by_autograd` returns the same for any critic.
        """
        if any(isinstance(layer, nn.BatchNorm2d) for layer in self.main):
            return slopes_by_autograd(self.score, images, labels)
        bends = []
        with torch.no_grad():
            for layer in self.main[:-1]:
                images = layer(images)
                if isinstance(layer, nn.LeakyReLU):
                    above, below = images.new_tensor(1.0), images.new_tensor(layer.negative_slope)
                    bends.append(torch.where(images > 0, above, below))
        last: Any = self.main[-1]
        filters = last.filters(images.shape[-1]) if isinstance(last, PooledHead) else last.weight
        slopes: Tensor = filters.expand(len(images), -1, -1, -1)
        if self.of_class is not None and labels is not None:
            slopes = slopes + self.of_class(labels)[:, :, None, None]
        for layer in reversed(self.main[:-1]):
            if isinstance(layer, nn.Conv2d):
                slopes = conv_transpose2d(slopes, layer.weight, None, layer.stride, layer.padding)  # type: ignore[arg-type]
            else:
                slopes = slopes * bends.pop()
        return slopes


class PooledHead(nn.Module):
    """Features (rows, channels, height, width) to scores (rows, 1): their means over the image, and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.linear(features.mean((2, 3)))
        return scores

    def filters(self, side: int) -> Tensor:
        """The same as filters (1, channels, side, side) of a convolution."""
        return self.linear.weight[:, :, None, None].expand(-1, -1, side, side) / side**2


def slopes_by_autograd(
    score: Callable[[Tensor, Tensor | None], Tensor], images: Tensor, labels: Tensor | None = None
) -> Tensor:
    """As `Critic.slopes`, for any critic, by a differentiable gradient."""
    images = images.detach().requires_grad_(True)
    (slopes,) = torch.autograd.grad(score(images, labels).sum(), images, create_graph=True)
    return slopes


def labels_of(images: Tensor, labels: Tensor | None) -> Tensor | None:
    """The labels of the first rows, one per image."""
    return labels if labels is None else labels[: len(images)]


def with_class(latent: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """Latent numbers, followed by the one-hot class if there are classes."""
    if labels is None:
        return latent
    flat = latent.flatten(1)
    one_hot = labels[:, None] == torch.arange(classes, device=labels.device)  # torch's own reads the labels
    return torch.cat([flat, one_hot.to(flat.dtype)], 1)


@torch.no_grad()
def initialise(layer: nn.Module) -> None:
    """Weights and filters N(0, 0.02), batch norm weights N(1, 0.02) (Radford et al. 2016, section 4)."""
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
        layer.weight.normal_(0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.weight.normal_(1, 0.02)
