"""How features are learned from: `setup` computes those of all samples, and the stream gives them out."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.contract.evaluation import Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.schedules import constant
from trainers.contract.streams import InOrder, Shuffled, Stream
from trainers.data.images import signed

AT_ONCE = 100  # images that the frozen network looks at


class CachedFamily(Family):
    def frozen_networks(self) -> dict[str, nn.Module]:
        first = nn.Conv2d(self.facts["channels"], 8, 3, padding=1)
        last = nn.Linear(8 * (self.facts["image_size"] // 2) ** 2, self.config.features)
        return {"backbone": nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), last, nn.ReLU())}

    def networks(self) -> dict[str, nn.Module]:
        return {"head": nn.Sequential(nn.Dropout(0.1), nn.Linear(self.config.features, self.facts["classes"]))}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        adam = torch.optim.Adam(networks["head"].parameters(), fused=True)
        return {"head": (adam, constant(lr=self.config.learning_rate))}

    def setup(self, networks: Mapping[str, nn.Module], data: Data) -> Mapping[str, Tensor]:
        dtype = next(networks["backbone"].parameters()).dtype

        def seen(batch: Callable[[Sequence[int]], dict[str, Tensor]], count: int) -> Tensor:
            parts = [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]
            return torch.cat([networks["backbone"](signed(batch(part)["images"], dtype)) for part in parts])

        return {"train": seen(data.batch, data.size), "held_out": seen(data.held_out_batch, data.held_out)}

    def stream(self, data: Data) -> Stream:
        return Shuffled(self.known("train", data.batch), data.size, self.config.seed)

    def held_out(self, data: Data) -> Stream:
        return InOrder(data.held_out, self.known("held_out", data.held_out_batch), chunk=16)

    def known(
        self, part: str, batch: Callable[[Sequence[int]], dict[str, Tensor]]
    ) -> Callable[[Sequence[int]], dict[str, Tensor]]:
        """Features that `setup` computed, in the place of images."""
        return lambda indices: {"features": self.buffers[part][list(indices)], "labels": batch(indices)["labels"]}

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (Phase("classify", ("head",), "head", self.classify),)

    def classify(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        guesses = networks["head"](microbatch["features"].to(microbatch.dtype)).to(microbatch.dtype)
        return Loss(cross_entropy(guesses, microbatch["labels"]))

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        guesses = networks["head"](microbatch["features"].to(microbatch.dtype)).double()
        right = (guesses.argmax(1) == microbatch["labels"]).sum()
        loss = cross_entropy(guesses, microbatch["labels"], reduction="sum")
        return {"accuracy": (right, microbatch.size), "loss": (loss, microbatch.size)}
