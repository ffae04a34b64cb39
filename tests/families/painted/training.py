"""How pictures are painted: each micro-batch optimises its own, and a network that nobody trains looks at them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.streams import InOrder, Stream
from trainers.data.images import signed


class PaintedFamily(Family):
    def networks(self) -> dict[str, nn.Module]:
        return {}

    def frozen_networks(self) -> dict[str, nn.Module]:
        first = nn.Conv2d(self.facts["channels"], self.config.width, 3, padding=1)
        return {"eye": nn.Sequential(first, nn.Tanh(), nn.Conv2d(self.config.width, self.config.width, 3, padding=1))}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return {}

    def stream(self, data: Data) -> Stream:
        return InOrder(self.config.batch_size, data.batch)  # the same pictures in every step

    def microbatch_state(self, index: int) -> dict[str, Tensor]:
        size, channels = self.facts["image_size"], self.facts["channels"]
        return {"picture": 0.1 * torch.randn(self.config.microbatch_size, channels, size, size)}

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (Phase("paint", (), "", self.paint, local_params=("picture",), local_optimizer=lbfgs),)

    def paint(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        wanted = grams(networks["eye"](signed(microbatch["images"], microbatch.dtype)))
        found = grams(networks["eye"](microbatch.state["picture"]))
        return Loss(1e4 * (found - wanted).square().mean().to(microbatch.dtype))

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["picture"].add(1).div(2)


def lbfgs(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=0.5, max_iter=3, history_size=4)


def grams(features: Tensor) -> Tensor:
    """How often features occur together, (rows, channels, channels)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]
