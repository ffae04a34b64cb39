"""Fully connected generator and critic, as a contrast to convolutional ones (Arjovsky et al. 2017, section 4.3).

Parameters have PyTorch's initial values.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trainers.families.adversarial.networks import SLOPE, initialise, labels_of, slopes_by_autograd, with_class

HIDDEN = 4  # layers, as in the paper, whose layers have 512 units


def hidden_layers(inputs: int, units: int, slope: float, norms: Sequence[bool], norm_after: bool) -> list[nn.Module]:
    """Linear layers, each with a (leaky) ReLU and, where `norms` is true, with a batch norm."""
    layers: list[nn.Module] = []
    for norm in norms:
        both = [nn.BatchNorm1d(units)] if norm else []
        act = nn.LeakyReLU(slope) if slope else nn.ReLU()
        layers += [
            nn.Linear(inputs, units, bias=norm_after or not norm),
            *([act, *both] if norm_after else [*both, act]),
        ]
        inputs = units
    return layers


class PerceptronGenerator(nn.Module):
    """As `adversarial.networks.Generator`, with four hidden layers."""

    def __init__(
        self, latent: int, units: int, channels: int, size: int, norm: bool, norm_after: bool, classes: int
    ) -> None:
        super().__init__()
        self.classes = classes
        self.main = nn.Sequential(
            *hidden_layers(latent + classes, units, 0.0, [norm] * HIDDEN, norm_after),
            nn.Linear(units, channels * size**2),
            nn.Tanh(),
            nn.Unflatten(1, (channels, size, size)),
        )

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.main(with_class(latent, labels, self.classes).flatten(1))
        return images


class PerceptronCritic(nn.Module):
    """As `adversarial.networks.Critic`, with four hidden layers."""

    def __init__(self, units: int, channels: int, size: int, norm: bool, norm_after: bool, classes: int) -> None:
        super().__init__()
        norms = [False, *[norm] * (HIDDEN - 1)]  # none on the images' own features, as in DCGAN
        self.main = nn.Sequential(*hidden_layers(channels * size**2, units, SLOPE, norms, norm_after))
        self.head = nn.Linear(units, 1, bias=False)
        self.of_class = nn.Embedding(classes, units).apply(initialise) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None, mixed: Tensor | None = None) -> Any:
        scores = self.score(images, labels)
        return scores if mixed is None else (scores, slopes_by_autograd(self.score, mixed, labels_of(mixed, labels)))

    def score(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.main(images.flatten(1))
        scores: Tensor = self.head(features)[:, 0]
        if self.of_class is not None and labels is not None:
            scores = scores + (features * self.of_class(labels)).sum(1)
        return scores
