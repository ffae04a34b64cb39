"""How pictures are dreamt (Mordvintsev 2015): what each octave adds is a picture of its own, climbed one after another.

A picture is the sum of its original and of what the octaves so far have added, each enlarged to the size at hand.
"""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.streams import InOrder, Stream
from trainers.data.images import signed
from trainers.settings.config import SampleSettings


class Ascent(torch.optim.Optimizer):
    """Steps against the loss whose length does not depend on the gradient's: rate times g / mean |g|."""

    def __init__(self, parameters: list[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self, closure):  # type: ignore[no-untyped-def, override]
        loss = closure()
        for group in self.param_groups:
            for picture in group["params"]:
                size = picture.grad.abs().flatten(1).mean(1).clamp(min=1e-12).view(-1, 1, 1, 1)
                picture.sub_(group["lr"] * picture.grad / size)
        return loss


class DreamFamily(Family):
    def networks(self) -> dict[str, nn.Module]:
        return {}

    def frozen_networks(self) -> dict[str, nn.Module]:
        first = nn.Conv2d(self.facts["channels"], 6, 3, padding=1)
        return {"eye": nn.Sequential(first, nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return {}

    def stream(self, data: Data) -> Stream:
        return InOrder(self.config.batch_size, data.batch)  # the same pictures in every step

    def sizes(self) -> list[int]:
        """Sides of the octaves, the smallest first."""
        ups = reversed(range(self.config.octaves))
        return [max(4, round(self.facts["image_size"] / self.config.octave_scale**up)) for up in ups]

    def microbatch_state(self, index: int) -> dict[str, Tensor]:
        rows, channels = self.config.microbatch_size, self.facts["channels"]
        return {f"added_{octave}": torch.zeros(rows, channels, size, size) for octave, size in enumerate(self.sizes())}

    def phases(self, step: int) -> tuple[Phase, ...]:
        octave = min(step * self.config.octaves // max(1, self.config.steps), self.config.octaves - 1)
        own = functools.partial(Ascent, rate=self.config.learning_rate)
        loss = functools.partial(self.climb, octave)
        return (Phase(f"octave_{octave}", (), "", loss, local_params=(f"added_{octave}",), local_optimizer=own),)

    def climb(self, octave: int, networks: Networks, microbatch: MicroBatch) -> Loss:
        picture = self.picture(signed(microbatch["images"], microbatch.dtype), microbatch.state, octave)
        reach = self.config.jitter
        shifts = torch.randint(-reach, reach + 1, (2,), generator=microbatch.random, device=microbatch.device)
        for axis, shift in zip((2, 3), shifts.unbind(), strict=True):  # as `roll`, by a number on the device
            side = picture.shape[axis]
            places = (torch.arange(side, device=microbatch.device) - shift) % side
            picture = picture.index_select(axis, places)
        seen = networks["eye"](picture)
        return Loss(-seen.square().mean().to(microbatch.dtype))

    def picture(self, original: Tensor, added: dict[str, Tensor], octave: int) -> Tensor:
        """A picture at the size of an octave, of values in [-1, 1]."""
        side = self.sizes()[octave]
        grown = [resized(added[f"added_{one}"], side) for one in range(octave + 1)]
        return (resized(original, side) + sum(grown)).clamp(-1, 1)

    def grid(self) -> SampleSettings:
        asked: SampleSettings = self.config.sample_settings(count=self.config.batch_size)
        return asked

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        return {"images": signed(data.batch(range(min(settings.count, data.size)))["images"], torch.float32).cpu()}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        return self.picture(inputs["images"], inputs, self.config.octaves - 1).add(1).div(2)


def resized(picture: Tensor, side: int) -> Tensor:
    return interpolate(picture, size=(side, side), mode="bilinear", align_corners=False)
