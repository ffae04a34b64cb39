"""Two small networks, one phase each, that fail at the step and on the micro-batch that the settings name."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.contract.evaluation import Totals
from trainers.contract.family import Family, Loss, MicroBatch, Networks, Phase
from trainers.contract.schedules import Schedule, constant
from trainers.data.images import signed


class Scorer(nn.Module):
    def __init__(self, pixels: int, ballast: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
        self.register_buffer("ballast", torch.zeros(ballast << 18))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.main(images)
        return scores


class Fragile(Family):
    def networks(self) -> dict[str, nn.Module]:
        pixels = self.facts["channels"] * self.facts["image_size"] ** 2
        return {"one": Scorer(pixels, self.config.ballast), "two": Scorer(pixels, 0)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, tuple[torch.optim.Optimizer, Schedule]]:
        return {
            name: (torch.optim.SGD(network.parameters(), momentum=0.9), constant(lr=0.01))
            for name, network in networks.items()
        }

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (
            Phase("first", ("one",), "one", lambda networks, batch: self.loss("first", networks["one"], batch)),
            Phase("second", ("two",), "two", lambda networks, batch: self.loss("second", networks["two"], batch)),
        )

    def loss(self, phase: str, network: nn.Module, microbatch: MicroBatch) -> Loss:
        config = self.config
        time.sleep(config.pause)
        scores = network(signed(microbatch["images"], microbatch.dtype))
        loss = nn.functional.cross_entropy(scores, microbatch["labels"])
        chosen = microbatch.index == config.guilty
        if chosen and microbatch.step == config.raise_at:
            raise ValueError(f"made up: micro-batch {microbatch.index} of step {microbatch.step}")
        if chosen and microbatch.step == config.nan_at and phase == config.nan_phase:
            loss = loss * float("nan")
        return Loss(loss)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        time.sleep(self.config.evaluation_pause)
        guesses = networks["one"](signed(microbatch["images"], microbatch.dtype)).argmax(1)
        return {"right": ((guesses == microbatch["labels"]).sum(), len(guesses))}
