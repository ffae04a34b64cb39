"""Critic steps of Wasserstein GANs as everybody writes them: fakes without a graph, real and fake one after another.

Float images in memory, NCHW, `.item()` for what is logged. Weights, pictures and noise are those of the same run of
ours, so that the losses of the first step can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainers.contract.family import Data
from trainers.contract.streams import sample_indices, seed_of
from trainers.families import registry

SETTINGS: dict[str, Any] = {"batch_size": 64, "microbatch_size": 64, "width": 64, "ema": 0.0}
PICTURE_SIZE = 64


def ready(family: str, config: Any, data: Data, count: int) -> tuple[nn.Module, nn.Module, list[Any]]:
    """Generator, critic, and of each step real images, noise, and places between real images and fakes."""
    device = torch.device(config.device)
    torch.manual_seed(seed_of(config.seed, "networks"))
    networks = registry.family_class(family)(config, data.facts).networks()
    batches = []
    for step in range(count):
        indices = sample_indices(data.size, config.seed, step * config.batch_size, config.batch_size).tolist()
        images = (data.batch(indices)["images"].float() / 127.5 - 1).contiguous()
        torch.manual_seed(seed_of(config.seed, "critic", step, 0))
        noise = torch.randn(len(images), config.latent_dim, 1, 1, device=device)
        batches.append((images.to(device), noise, torch.rand(len(images), 1, 1, 1, device=device)))
    return networks["generator"].to(device), networks["critic"].to(device), batches


def clipped(config: Any, data: Data, count: int) -> Iterator[dict[str, float]]:
    """Critic steps of WGAN; yields what is logged of each."""
    generator, critic, batches = ready("wgan", config, data, count)
    yield {}  # everything is ready

    optimizer = torch.optim.RMSprop(critic.parameters(), lr=config.learning_rate)
    for real, noise, _ in batches:
        critic.zero_grad()
        with torch.no_grad():
            fake = generator(noise)
        distance = critic(real).mean() - critic(fake).mean()
        (-distance).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-config.clip, config.clip)
        yield {"critic_loss": -distance.item(), "distance": distance.item()}


def penalised(config: Any, data: Data, count: int) -> Iterator[dict[str, float]]:
    """Critic steps of WGAN-GP; yields what is logged of each."""
    generator, critic, batches = ready("wgan_gp", config, data, count)
    yield {}  # everything is ready

    optimizer = torch.optim.Adam(critic.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2))
    for real, noise, part in batches:
        critic.zero_grad()
        with torch.no_grad():
            fake = generator(noise)
        distance = critic(real).mean() - critic(fake).mean()
        mixed = (real + part * (fake - real)).requires_grad_(True)
        scores = critic(mixed)
        (slopes,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True, retain_graph=True)
        penalty = (slopes.view(len(slopes), -1).norm(2, dim=1) - 1).pow(2).mean()
        loss = config.penalty * penalty - distance
        loss.backward()
        optimizer.step()
        yield {"critic_loss": loss.item(), "distance": distance.item()}
