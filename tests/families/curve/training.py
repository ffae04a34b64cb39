"""How the curve is fitted: gradient descent, stopped by what an evaluation says."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.contract.evaluation import Totals
from trainers.contract.family import Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.schedules import constant


class Polynomial(nn.Module):
    def __init__(self, degree: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(degree + 1))

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.stack([x**power for power in range(len(self.coefficients))], 1)
        return powers @ self.coefficients


class CurveFamily(Family):
    def networks(self) -> dict[str, nn.Module]:
        return {"polynomial": Polynomial(self.config.degree)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        descent = torch.optim.SGD(networks["polynomial"].parameters())
        return {"descent": (descent, constant(lr=self.config.learning_rate))}

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (Phase("fit", ("polynomial",), "descent", self.fit),)

    def fit(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        return Loss(errors(networks, microbatch).mean())

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        return {"error": (errors(networks, microbatch).double().sum(), microbatch.size)}


def errors(networks: Networks, microbatch: MicroBatch) -> Tensor:
    """Squared errors, one for each point."""
    x, y = (microbatch[name].to(microbatch.dtype) for name in "xy")
    guesses: Tensor = networks["polynomial"](x)
    return (guesses.to(microbatch.dtype) - y).square()
