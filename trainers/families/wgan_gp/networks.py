"""The residual networks for 32x32 images of Gulrajani et al. 2017, appendix C, with a configurable width."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from trainers.families.adversarial.networks import Project, labels_of, slopes_by_autograd, upsampling, with_class


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `resample` is "down", "none", or an `upsampling`."""

    def __init__(self, before: int, after: int, resample: str | nn.Module, norm: bool) -> None:
        super().__init__()
        self.down, self.larger = resample == "down", resample if isinstance(resample, nn.Module) else nn.Identity()
        self.norms = nn.ModuleList([nn.BatchNorm2d(before), nn.BatchNorm2d(after)] if norm else [])
        self.convolutions = nn.ModuleList([convolution(before, after), convolution(after, after)])
        self.shortcut = convolution(before, after, 1) if before != after or resample != "none" else None

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.convolutions
        inner = first(self.larger(relu(self.norms[0](images) if self.norms else images)))
        inner = second(relu(self.norms[1](inner) if self.norms else inner))
        beside = self.larger(images)
        if self.down:
            inner, beside = avg_pool2d(inner, 2), avg_pool2d(beside, 2)
        features: Tensor = inner + (beside if self.shortcut is None else self.shortcut(beside))
        return features


class ResNetGenerator(nn.Module):
    """Latent (rows, latent, 1, 1), and labels (rows,) if there are classes, to images (rows, channels, 32, 32)."""

    def __init__(
        self,
        latent: int,
        width: int,
        channels: int,
        classes: int = 0,
        norm: bool = True,
        upsample: str = "nearest",
    ) -> None:
        super().__init__()
        self.classes = classes
        last = convolution(width, channels)
        self.main = nn.Sequential(
            Project(latent + classes, width),
            *[Block(width, width, upsampling(upsample, side), norm) for side in (4, 8, 16)],
            *([nn.BatchNorm2d(width)] if norm else []),
            nn.ReLU(),
            last,
            nn.Tanh(),
        )

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.main(with_class(latent, labels, self.classes))
        return images


class ResNetCritic(nn.Module):
    """As `adversarial.networks.Critic`, without norms, for images (rows, channels, 32, 32)."""

    def __init__(self, width: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.main = nn.Sequential(
            First(channels, width),
            Block(width, width, "down", norm=False),
            *[Block(width, width, "none", norm=False) for _ in range(2)],
        )
        self.head = nn.Linear(width, 1)
        self.of_class = nn.Embedding(classes, width) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None, mixed: Tensor | None = None) -> Any:
        scores = self.score(images, labels)
        return scores if mixed is None else (scores, slopes_by_autograd(self.score, mixed, labels_of(mixed, labels)))

    def score(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = relu(self.main(images)).mean((2, 3))
        scores: Tensor = self.head(features)[:, 0]
        if self.of_class is not None and labels is not None:
            scores = scores + (features * self.of_class(labels)).sum(1)
        return scores


class First(nn.Module):
    """The critic's first block, whose shortcut downsamples before it adds channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([convolution(channels, width), convolution(width, width)])
        self.shortcut = convolution(channels, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.convolutions
        features: Tensor = avg_pool2d(second(relu(first(images))), 2) + self.shortcut(avg_pool2d(images, 2))
        return features


def convolution(before: int, after: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size, with He's initial weights (Gulrajani et al. 2017, appendix C)."""
    layer = nn.Conv2d(before, after, size, padding=size // 2)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu" if size == 3 else "linear")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
