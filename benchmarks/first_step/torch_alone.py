"""The least that trains DCGAN's networks (32 px, width 64) for one step without troupe: one file, torch only.

python torch_alone.py FILE: writes FILE when the step is done.
"""

import sys

import torch
from torch import nn


def convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2, True)]


def transposed(before: int, after: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(before), nn.ReLU(True), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]


def networks() -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(
        nn.ConvTranspose2d(100, 256, 4, bias=False), *transposed(256, 128), *transposed(128, 64), *transposed(64, 1),
        nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(1, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True), *convolution(64, 128), *convolution(128, 256),
        nn.Conv2d(256, 1, 4, bias=False), nn.Flatten(0),
    )  # fmt: skip
    return generator, discriminator


def one_step(generator: nn.Module, discriminator: nn.Module, batch_size: int) -> None:
    criterion = nn.BCEWithLogitsLoss()
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    real = torch.rand(batch_size, 1, 32, 32) * 2 - 1
    fake = generator(torch.randn(batch_size, 100, 1, 1))
    ones, zeros = torch.ones(batch_size), torch.zeros(batch_size)
    (criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)).backward()
    optimizer_d.step()
    criterion(discriminator(fake), ones).backward()
    optimizer_g.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_step(*networks(), 64)
    with open(sys.argv[1], "w") as file:
        file.write("done\n")
