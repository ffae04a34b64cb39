"""Training of WGAN: several steps of a critic with clipped weights, then one of the generator."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract.family import Loss, MicroBatch, Networks, Optimizers
from trainers.families.adversarial.learning import Wasserstein


class WGAN(Wasserstein):
    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return self.alike(networks, torch.optim.RMSprop, foreach=True)

    def criticise(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        shown = self.shown(microbatch, self.fakes(networks, microbatch))
        real, fake, *wrong = self.scores(networks, microbatch, *shown)
        return Loss(-self.distance(real, fake, wrong), {"distance": self.distance(real, fake)})

    def constraints(self) -> dict[str, Any]:
        return {"post_step" if self.config.clip_when == "after" else "pre_loss": self.clip}

    def clip(self, networks: Mapping[str, nn.Module]) -> None:
        """Clip the weights, which bounds how fast scores change with the pixels."""
        weights: list[Tensor] = list(networks["critic"].parameters())
        torch._foreach_clamp_min_(weights, -self.config.clip)
        torch._foreach_clamp_max_(weights, self.config.clip)
