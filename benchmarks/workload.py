"""What the benchmarks train: a family on generated pictures, in one process, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trainers.contract.family import Data, Family
from trainers.data.images import ImageData, Part
from trainers.distributed.process_group import World
from trainers.engine.control import Control
from trainers.engine.step import next_batch, run_phase, train_step
from trainers.engine.trainer import Trainer
from trainers.families import registry
from trainers.settings.config import Config

PICTURES = 1024

__all__ = [
    "config_of",
    "first_phase",
    "generated",
    "next_batch",
    "seconds_of_steps",
    "train_step",
    "trainer_for",
    "trainer_of",
]


def generated(size: int, channels: int = 3, count: int = PICTURES) -> ImageData:
    """Pictures of noise, the same each time; learning from them costs as much as from any others."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, channels), np.uint8)
    labels = random.integers(0, 10, count)
    test = Part(images[:0], labels[:0])
    return ImageData(Part(images, labels), test, fingerprint="generated", class_names=tuple("0123456789"))


def config_of(family: str, **settings: Any) -> Config:
    """Settings of a family on the CPU with one thread, where they do not say else, without evaluations."""
    return registry.config_class(family).of(
        {"device": "cpu", "grad_sync": "exact", "evaluate_every": 0, **settings}, family
    )


def trainer_of(family: str, config: Config, data: Data, world: World | None = None) -> Trainer:
    """The engine's own trainer of a family, without its folder, grids and checkpoints."""
    built: Family = registry.family_class(family)(config, data.facts)
    return trainer_for(built, config, data, world)


def trainer_for(family: Family, config: Config, data: Data, world: World | None = None) -> Trainer:
    torch.set_num_threads(config.threads_per_worker)
    trainer = Trainer(family, data, config, world or World(), Control())
    trainer.setup()
    return trainer


def first_phase(trainer: Trainer) -> None:
    """The first phase of a step, on fresh samples, and nothing else of it: a step of a critic."""
    run_phase(trainer, trainer.family.phases(trainer.step)[0])


def seconds_of_steps(
    step: Callable[[], Any], warm_up: int, steps: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """How long each of `steps` calls takes, after `warm_up` others."""
    for _ in range(warm_up):
        step()
    seconds = []
    for _ in range(steps):
        started = clock()
        step()
        seconds.append(clock() - started)
    return seconds
