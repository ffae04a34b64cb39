"""How translations are learned: two streams side by side, and critics that also see what was made before."""

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.contract.evaluation import Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.schedules import constant
from trainers.contract.streams import InOrder, Shuffled, SideBySide, Stream
from trainers.data.images import signed
from trainers.settings.config import SampleSettings


class Translate(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        translated: Tensor = self.main(images)
        return translated


class PairsFamily(Family):
    def networks(self) -> dict[str, nn.Module]:
        channels, width = self.facts["parts"][0]["channels"], self.config.width
        translators = {name: Translate(channels, width) for name in ("a_to_b", "b_to_a")}
        critics = {name: nn.Sequential(nn.Conv2d(channels, width, 4, 2), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3))
                   for name in ("critic_a", "critic_b")}  # fmt: skip
        return {**translators, **critics}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        made = {}
        for name, names in (("translators", ("a_to_b", "b_to_a")), ("critics", ("critic_a", "critic_b"))):
            parameters = list(itertools.chain(*(networks[one].parameters() for one in names)))
            made[name] = (torch.optim.Adam(parameters, betas=(0.5, 0.999)), constant(lr=2e-3))
        return made

    def stream(self, data: Data) -> Stream:
        a, b = data.parts  # type: ignore[attr-defined]
        seed = self.config.seed
        return SideBySide(a=Shuffled(a.batch, a.size, seed), b=Shuffled(b.batch, b.size, seed + 1))

    def held_out(self, data: Data) -> Stream:
        a, b = data.parts  # type: ignore[attr-defined]
        count = data.held_out
        return SideBySide(a=InOrder(count, a.held_out_batch, 16), b=InOrder(count, b.held_out_batch, 16))

    def microbatch_state(self, index: int) -> dict[str, Tensor]:
        size, channels = self.facts["parts"][0]["image_size"], self.facts["parts"][0]["channels"]
        return {"pool": torch.zeros(self.config.microbatch_size, channels, size, size)}

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (
            Phase("translate", ("a_to_b", "b_to_a"), "translators", self.translate),
            Phase("criticise", ("critic_a", "critic_b"), "critics", self.criticise, new_batch=False),
        )

    def translate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        a, b = (signed(microbatch[f"{name}_images"], microbatch.dtype) for name in "ab")
        fake_b, fake_a = networks["a_to_b"](a), networks["b_to_a"](b)
        microbatch.intermediates["fakes"] = [fake.detach().to(microbatch.dtype) for fake in (fake_a, fake_b)]
        cycle = (networks["b_to_a"](fake_b) - a).abs().mean() + (networks["a_to_b"](fake_a) - b).abs().mean()
        fooled = (networks["critic_a"](fake_a) - 1).square().mean() + (networks["critic_b"](fake_b) - 1).square().mean()
        return Loss((fooled + 10 * cycle).to(microbatch.dtype), {"cycle": cycle})

    def criticise(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        a, b = (signed(microbatch[f"{name}_images"], microbatch.dtype) for name in "ab")
        fake_a, fake_b = microbatch.intermediates["fakes"]
        before = torch.rand(len(fake_b), 1, 1, 1, device=fake_b.device) < 0.5
        seen = torch.where(before, microbatch.state["pool"], fake_b)
        microbatch.state = {"pool": fake_b}
        loss = torch.zeros((), dtype=microbatch.dtype, device=a.device)
        for name, real, fake in (("critic_a", a, fake_a), ("critic_b", b, seen)):
            loss = loss + (networks[name](real) - 1).square().mean() + networks[name](fake).square().mean()
        return Loss(loss)

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        a = data.parts[0]  # type: ignore[attr-defined]
        chosen = torch.randint(0, a.held_out, (settings.count,), generator=random)
        return {"images": signed(a.held_out_batch(chosen.tolist())["images"], torch.float32).cpu()}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        images: Tensor = networks["a_to_b"](inputs["images"])
        return images.add(1).div(2)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        a = signed(microbatch["a_images"], microbatch.dtype)
        error = (networks["b_to_a"](networks["a_to_b"](a)) - a).abs().flatten(1).mean(1)
        return {"cycle": (error.double().sum(), microbatch.size)}
