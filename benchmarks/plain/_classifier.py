"""Classifiers as everybody writes them: float images in memory, NCHW, plain SGD with decay on everything, `.item()`.

Weights and pictures are those of the same run of ours, which augments nothing here: the losses of the first step can be
compared. What augmentation costs is told beside the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainers.contract.family import Data
from trainers.contract.streams import sample_indices, seed_of
from trainers.families import registry

PICTURE_SIZE = 32
SETTINGS: dict[str, Any] = {"batch_size": 128, "microbatch_size": 128, "flip": "none", "crop_padding": 0}


def steps(family: str, config: Any, data: Data, count: int) -> Iterator[dict[str, float]]:
    """Train for `count` steps; yields what is logged of each."""
    device = torch.device(config.device)
    mean, deviation = (torch.tensor(part).view(1, -1, 1, 1) for part in config.channel_moments(data.facts["channels"]))
    torch.manual_seed(seed_of(config.seed, "networks"))
    network = registry.family_class(family)(config, data.facts).networks()["network"].to(device)
    batches = []
    for step in range(count):
        indices = sample_indices(data.size, config.seed, step * config.batch_size, config.batch_size).tolist()
        batch = data.batch(indices)
        images = ((batch["images"].float() / 255 - mean) / deviation).contiguous()
        batches.append((images.to(device), batch["labels"].to(device)))
    yield {}  # everything is ready

    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=config.momentum, nesterov=True, weight_decay=config.weight_decay
    )
    for images, labels in batches:
        optimizer.zero_grad()
        output = network(images)
        loss = criterion(output, labels)
        loss.backward()
        optimizer.step()
        yield {"classify_loss": loss.item(), "accuracy": (output.argmax(1) == labels).float().mean().item()}
