"""Training of DCGAN: one phase for each network; both use the fakes that are made once per step."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import softplus

from trainers.contract.family import Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.families.adversarial.learning import Adversarial


class DCGAN(Adversarial):
    critic = "discriminator"  # its scores are logits of being real

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return self.alike(networks, torch.optim.Adam, betas=(self.config.beta1, 0.999), fused=True)

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (
            Phase(
                "discriminator", ("discriminator",), "discriminator", self.discriminate, keeps_graph_of=("generator",)
            ),
            Phase("generator", ("generator",), "generator", self.generate, new_batch=False),
        )

    def discriminate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        microbatch.intermediates["fakes"] = fakes = self.fakes(networks, microbatch)
        real, fake, *wrong = self.scores(networks, microbatch, *self.shown(microbatch, fakes.detach()))
        negative = sum(softplus(part).mean() for part in (fake, *wrong)) / (1 + len(wrong))
        loss = softplus(-real).mean() + negative  # binary cross entropy on logits
        return Loss(loss, {"real_score": real.sigmoid().mean(), "fake_score": fake.sigmoid().mean()})

    def generate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        (fake,) = self.scores(networks, microbatch, (microbatch.intermediates["fakes"], self.labels(microbatch)))
        return Loss(softplus(-fake).mean())  # non-saturating: make fakes look real
