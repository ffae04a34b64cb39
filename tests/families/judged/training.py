"""How the generator learns and is judged: statistics of the real images are kept with the run."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from trainers.contract.evaluation import Evaluation, Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.schedules import constant
from trainers.contract.streams import InOrder, Stream
from trainers.data.images import signed
from trainers.settings.config import SampleSettings

REAL, FEATURES = 256, 6  # images that the judge looks at once, and numbers that it tells of each


class JudgedFamily(Family):
    ema_networks = ("generator",)

    def networks(self) -> dict[str, nn.Module]:
        pixels = self.facts["channels"] * self.facts["image_size"] ** 2
        generator = nn.Sequential(
            nn.Linear(self.config.latent, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, pixels)
        )
        return {"generator": generator.append(nn.Tanh()),
                "critic": nn.Sequential(nn.Linear(pixels, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))}  # fmt: skip

    def frozen_networks(self) -> dict[str, nn.Module]:
        return {
            "judge": nn.Sequential(
                nn.Linear(self.facts["channels"] * self.facts["image_size"] ** 2, FEATURES), nn.Tanh()
            )
        }

    def setup(self, networks: Mapping[str, nn.Module], data: Data) -> Mapping[str, Tensor]:
        images = data.batch(range(min(REAL, data.size)))["images"]
        dtype = next(networks["judge"].parameters()).dtype
        self.heartbeat()
        mean, covariance = moments(features_of(networks, signed(images, dtype).flatten(1)))
        return {"mean": mean, "covariance": covariance}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return {name: (torch.optim.Adam(network.parameters(), fused=True), constant(lr=1e-3))
                for name, network in networks.items()}  # fmt: skip

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (
            Phase("critic", ("critic",), "critic", self.criticise, keeps_graph_of=("generator",)),
            Phase("generator", ("generator",), "generator", self.generate, new_batch=False),
        )

    def criticise(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        fakes = networks["generator"](microbatch.randn(microbatch.size, self.config.latent))
        microbatch.intermediates["fakes"] = fakes
        real = networks["critic"](signed(microbatch["images"], microbatch.dtype).flatten(1))
        fake = networks["critic"](fakes.detach())
        return Loss((softplus(-real).mean() + softplus(fake).mean()).to(microbatch.dtype))

    def generate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        return Loss(softplus(-networks["critic"](microbatch.intermediates["fakes"])).mean().to(microbatch.dtype))

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        return {"latent": torch.randn(settings.count, self.config.latent, generator=random)}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        size = self.facts["image_size"]
        images: Tensor = networks["generator"](inputs["latent"]).view(-1, self.facts["channels"], size, size)
        return images.add(1).div(2)

    def held_out(self, data: Data) -> Stream:
        return InOrder(self.config.judged, chunk=16)  # made of noise alone

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        found = features_of(networks, networks["generator"](microbatch.randn(microbatch.size, self.config.latent)))
        return {"features": (found.sum(0), len(found)), "products": (found.T @ found, len(found))}

    def compute_metrics(self, found: Evaluation) -> Mapping[str, float]:
        (total, count), (products, _) = found.totals["features"], found.totals["products"]
        mean = torch.as_tensor(total) / count
        covariance = torch.as_tensor(products) / count - mean[:, None] * mean
        kept = {name: tensor.double().cpu() for name, tensor in self.buffers.items()}
        return {"frechet_distance": frechet(mean, covariance, kept["mean"], kept["covariance"])}


def features_of(networks: Networks, flat: Tensor) -> Tensor:
    found: Tensor = networks["judge"](flat)
    return found.double()


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    mean = features.mean(0)
    return mean, features.T @ features / len(features) - mean[:, None] * mean


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982)."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    both = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    gap = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * both
    return float(gap)
