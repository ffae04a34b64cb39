"""How DCGAN learns: one phase for each network; the fakes are made once in a step and serve both."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from trainers.data.images import signed
from trainers.engine import schedules
from trainers.engine.config import Asked
from trainers.engine.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.families.dcgan.networks import Discriminator, Generator


class DCGAN(Family):
    ema_networks = ("generator",)

    def networks(self) -> dict[str, nn.Module]:
        config, channels, size = self.config, self.facts["channels"], self.facts["image_size"]
        width = min(64, size) if config.width == "auto" else config.width
        return {
            "generator": Generator(config.latent, width, channels, size, config.upsample),
            "discriminator": Discriminator(width, channels, size),
        }

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        course, betas = schedules.of(self.config, self.config.learning_rate), (self.config.beta1, 0.999)
        return {name: (torch.optim.Adam(network.parameters(), betas=betas, fused=True), course)
                for name, network in networks.items()}  # fmt: skip

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (
            Phase("discriminator", ("discriminator",), "discriminator", self.discriminate, leaves=("generator",)),
            Phase("generator", ("generator",), "generator", self.generate, fresh=False),
        )

    def discriminate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        fakes = networks["generator"](microbatch.randn(microbatch.size, self.config.latent, 1, 1))
        microbatch.kept["fakes"] = fakes
        real = networks["discriminator"](signed(microbatch["images"], microbatch.dtype)).to(microbatch.dtype)
        fake = networks["discriminator"](fakes.detach()).to(microbatch.dtype)
        loss = softplus(-real).mean() + softplus(fake).mean()  # binary cross entropy on logits
        return Loss(loss, {"real_score": real.sigmoid().mean(), "fake_score": fake.sigmoid().mean()})

    def generate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        fake = networks["discriminator"](microbatch.kept["fakes"]).to(microbatch.dtype)
        return Loss(softplus(-fake).mean())  # non-saturating: make fakes look real

    def sample_inputs(self, asked: Asked, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        return {"latent": torch.randn(asked.count, self.config.latent, 1, 1, generator=random)}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        images: Tensor = networks["generator"](inputs["latent"])
        return images.add(1).div(2)
