"""DCGAN as everybody writes it: the loop of the well-known PyTorch example, on our networks.

Float images in memory, NCHW, default Adam, two backward passes for the discriminator, `.item()` for what is logged.
Weights, pictures and noise are those of the same run of ours, so that the losses of the first step can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainers.contract.family import Data
from trainers.contract.streams import sample_indices, seed_of
from trainers.families.adversarial.networks import Critic, Generator

SETTINGS: dict[str, Any] = {"batch_size": 64, "microbatch_size": 64, "width": 64, "ema": 0.0}
PICTURE_SIZE = 64
FASTER = {"float32": 1.15, "bfloat16": 2.3}  # what is asked of ours, in times


def transposed(weight: torch.Tensor, latent: int) -> nn.Module:
    """The first layer as the example has it, a transposed convolution, with the weights of our matrix product."""
    layer = nn.ConvTranspose2d(latent, weight.shape[0] // 16, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight.view(4, 4, -1, latent).permute(3, 2, 0, 1))
    return layer


def steps(config: Any, data: Data, count: int) -> Iterator[dict[str, float]]:
    """Train for `count` steps; yields what is logged of each."""
    channels, size, batch_size = data.facts["channels"], data.facts["image_size"], config.batch_size
    device = torch.device(config.device)
    torch.manual_seed(seed_of(config.seed, "networks"))
    generator = Generator(config.latent_dim, config.width, channels, size, config.upsample)
    discriminator = Critic(config.width, channels, size)
    generator.main[0] = transposed(generator.main[0].linear.weight, config.latent_dim)
    generator, discriminator = generator.to(device), discriminator.to(device)
    batches, noises = [], []
    for step in range(count):
        indices = sample_indices(data.size, config.seed, step * batch_size, batch_size).tolist()
        batches.append((data.batch(indices)["images"].float() / 127.5 - 1).contiguous().to(device))
        torch.manual_seed(seed_of(config.seed, "discriminator", step, 0))
        noises.append(torch.randn(batch_size, config.latent_dim, 1, 1, device=device))
    yield {}  # everything is ready

    criterion = nn.BCEWithLogitsLoss()
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=config.learning_rate, betas=(config.beta1, 0.999))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=config.learning_rate, betas=(config.beta1, 0.999))
    for real, noise in zip(batches, noises, strict=True):
        # Discriminator: first the real images, then the fakes
        discriminator.zero_grad()
        label = torch.full((batch_size,), 1.0, device=device)
        output = discriminator(real)
        error_real = criterion(output, label)
        error_real.backward()
        real_score = output.sigmoid().mean().item()
        fake = generator(noise)
        label.fill_(0.0)
        output = discriminator(fake.detach())
        error_fake = criterion(output, label)
        error_fake.backward()
        fake_score = output.sigmoid().mean().item()
        error_d = error_real + error_fake
        optimizer_d.step()
        # Generator: fakes should look real
        generator.zero_grad()
        label.fill_(1.0)
        output = discriminator(fake)
        error_g = criterion(output, label)
        error_g.backward()
        output.sigmoid().mean().item()  # logged by the example, by none of ours
        optimizer_g.step()
        yield {
            "discriminator_loss": error_d.item(), "generator_loss": error_g.item(),
            "real_score": real_score, "fake_score": fake_score,
        }  # fmt: skip
