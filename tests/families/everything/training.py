"""How the made-up family learns: five phases that use each part of the contract."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from trainers.families.everything.networks import Critic, Generator, Line, Reader

from trainers.contract.evaluation import Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Phase
from trainers.contract.schedules import Schedule, constant
from trainers.data.images import signed
from trainers.settings.config import SampleSettings


class Everything(Family):
    ema_networks = ("generator", "reader")

    def networks(self) -> dict[str, nn.Module]:
        channels, size = self.facts["channels"], self.facts["image_size"]
        return {
            "critic": Critic(channels),
            "generator": Generator(channels),
            "reader": Reader(channels * size, self.config.hidden),
            "line": Line(),
        }

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, tuple[torch.optim.Optimizer, Schedule]]:
        return {
            "critic": (torch.optim.Adam(networks["critic"].parameters(), betas=(0.0, 0.9)), constant(lr=1e-3)),
            # this one writes into the gradients
            "generator": (torch.optim.SGD(networks["generator"].parameters(), 1e-3, 0.5, nesterov=True, foreach=True),
                          lambda step, history: {"lr": 1e-3 / (1 + step)}),
            "reader": (torch.optim.SGD(networks["reader"].parameters(), momentum=0.9, nesterov=True, weight_decay=1e-3),
                       lambda step, history: {"lr": 0.1, "momentum": 0.9 - 0.1 * (step % 2)}),
            "line": (torch.optim.LBFGS(networks["line"].parameters(), max_iter=4, line_search_fn="strong_wolfe"),
                     constant(lr=1.0)),
        }  # fmt: skip

    def phases(self, step: int) -> tuple[Phase, ...]:
        critic = Phase("critic", ("critic",), "critic", self.criticise)
        return (
            *[critic] * (self.config.critic_steps + (step == 0)),
            Phase("generator", ("generator",), "generator", self.generate),
            Phase("reader", ("reader",), "reader", self.read, pre_step=clip, post_step=shrink),
            Phase("line", ("line",), "line", self.fit, new_batch=False, closure=True),
        )

    def criticise(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        real = signed(microbatch["images"], microbatch.dtype)
        fake = networks["generator"](microbatch.randn(microbatch.size, 8, 1, 1)).detach().to(microbatch.dtype)
        mixed = torch.lerp(real, fake, torch.rand(microbatch.size, 1, 1, 1, dtype=real.dtype, device=real.device))
        mixed.requires_grad_(True)
        (slope,) = torch.autograd.grad(networks["critic"](mixed).sum(), mixed, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        gap = networks["critic"](fake).mean() - networks["critic"](real).mean()
        return Loss(gap + 10 * penalty, {"gap": gap, "penalty": penalty})

    def generate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        return Loss(-networks["critic"](networks["generator"](microbatch.randn(microbatch.size, 8, 1, 1))).mean())

    def read(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        images = signed(microbatch["images"], microbatch.dtype)
        rows = images.permute(0, 2, 1, 3).flatten(2)
        guesses, hidden, cell = networks["reader"](rows, microbatch.state["hidden"], microbatch.state["cell"])
        microbatch.state = {"hidden": hidden, "cell": cell}
        mask = torch.rand(guesses.shape[:2], device=guesses.device) < 0.1 + 0.1 * microbatch.index  # unequal weights
        wanted = microbatch["labels"][:, None].expand(guesses.shape[:2])
        losses = cross_entropy(guesses.flatten(0, 1), wanted.flatten(), reduction="none").view_as(mask)
        right = ((guesses.argmax(2) == wanted) & mask).sum() / mask.sum().clamp(min=1)
        return Loss((losses * mask).sum(), {"right": right.double()}, mask.sum())

    def fit(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        points = adaptive_avg_pool2d(signed(microbatch["images"], microbatch.dtype), 2).flatten(1)
        wanted = points[:, :3] * 2 - points[:, 1:] + 0.01 * microbatch.randn(microbatch.size, 3)
        return Loss((networks["line"](points) - wanted).square().mean())

    def microbatch_state(self, index: int) -> dict[str, Tensor]:
        shape = (1, self.config.microbatch_size, self.config.hidden)
        return {"hidden": 0.01 * torch.randn(shape) + 0.01 * index, "cell": torch.zeros(shape)}

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        return {"latent": torch.randn(settings.count, 8, 1, 1, generator=random)}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        images: Tensor = networks["generator"](inputs["latent"])
        return images.add(1).div(2)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        images = signed(microbatch["images"], microbatch.dtype)
        state = torch.zeros(1, microbatch.size, self.config.hidden, dtype=images.dtype, device=images.device)
        guesses, _, _ = networks["reader"](images.permute(0, 2, 1, 3).flatten(2), state, state)
        right = guesses[:, -1].argmax(1) == microbatch["labels"]
        return {"accuracy": (right.sum(), microbatch.size), "noise": (torch.randn(1).sum(), 1.0)}


def clip(networks: Mapping[str, nn.Module]) -> None:
    nn.utils.clip_grad_norm_(networks["reader"].parameters(), 0.25)


def shrink(networks: Mapping[str, nn.Module]) -> None:
    for parameter in networks["reader"].parameters():
        parameter.clamp_(-0.5, 0.5)
