"""Training of WGAN-GP: as WGAN, with a penalty on the critic's slopes instead of clipped weights."""

from collections.abc import Mapping

import torch
from torch import nn

from trainers.contract.family import Loss, MicroBatch, Networks, Optimizers
from trainers.families.adversarial.learning import Wasserstein, concatenated_images
from trainers.families.wgan_gp.networks import ResNetCritic, ResNetGenerator


class WGANGP(Wasserstein):
    @property
    def critic_norm(self) -> bool:
        return False  # the penalty is on the slopes of each image's own score

    def networks(self) -> dict[str, nn.Module]:
        config, channels = self.config, self.facts["channels"]
        if config.network != "resnet":
            return super().networks()
        upsample = "nearest" if config.upsample == "transposed" else config.upsample  # as in the paper
        return {
            "generator": ResNetGenerator(
                config.latent_dim, self.width, channels, self.classes, config.generator_norm, upsample
            ),
            "critic": ResNetCritic(self.width, channels, self.classes),
        }

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return self.alike(networks, torch.optim.Adam, betas=(self.config.beta1, self.config.beta2), fused=True)

    def criticise(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        fakes = self.fakes(networks, microbatch).to(microbatch.dtype)
        shown = self.shown(microbatch, fakes)
        part = torch.rand(len(fakes), 1, 1, 1, generator=microbatch.random, device=fakes.device, dtype=fakes.dtype)
        mixed = torch.lerp(self.real(microbatch), fakes, part)
        scores, slopes = networks["critic"](*concatenated_images(shown), mixed)
        real, fake, *wrong = scores.to(microbatch.dtype).chunk(len(shown))
        steepness = slopes.to(microbatch.dtype).flatten(1).norm(dim=1)
        excess = steepness - 1
        penalty = (excess if self.config.penalty_sides == "two" else excess.clamp(min=0)).square().mean()
        loss = self.config.penalty * penalty - self.distance(real, fake, wrong)
        return Loss(loss, {"distance": self.distance(real, fake), "steepness": steepness.mean()})
