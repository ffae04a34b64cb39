"""Small networks, one for each way of learning."""

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(channels, 4, 4, 4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 8))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.main(images).flatten()
        return scores


class Generator(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(8, 6, 8), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, channels, 4, 4), nn.Tanh()
        )

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.main(latent)
        return images


class Reader(nn.Module):
    """Reads an image row by row, goes on from a state, and guesses the digit."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, (hidden, cell) = self.lstm(rows, (hidden, cell))
        return self.head(self.drop(seen)), hidden, cell


class Line(nn.Module):
    """A linear map, fitted with L-BFGS."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))

    def forward(self, points: Tensor) -> Tensor:
        return points @ self.weight
