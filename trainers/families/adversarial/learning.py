"""Shared code of the adversarial families: networks, noise and classes, the grid, and scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainers.base.errors import USAGE, TroupeError, did_you_mean
from trainers.base.problems import Problem
from trainers.contract import schedules
from trainers.contract.evaluation import Rows
from trainers.contract.family import Data, Loss, MicroBatch, Networks, Optimizers, Phase, Watch
from trainers.contract.streams import InOrder
from trainers.data.images import signed
from trainers.families.adversarial import watching
from trainers.families.adversarial.judging import Judging
from trainers.families.adversarial.networks import Critic, Generator
from trainers.families.adversarial.perceptrons import PerceptronCritic, PerceptronGenerator
from trainers.settings.config import SampleSettings

AUTO_WIDTHS = {"mlp": 512, "resnet": 128}  # of networks whose papers have the same for all images
ROWS, COLUMNS = 16, 8  # of the grid of a conditional run, one row per class
Shown = tuple[Tensor, Tensor | None]  # images, and their classes in a conditional run


class Adversarial(Judging):
    """A generator, and a network that judges its images, named `critic`."""

    ema_networks = ("generator",)
    critic: ClassVar[str] = "critic"

    @property
    def critic_norm(self) -> bool:
        """Whether batch norms make scores depend on other images."""
        return bool(getattr(self.config, "critic_norm", True))

    @property
    def classes(self) -> int:
        """Number of classes of a conditional run, 0 for none."""
        return int(self.facts["classes"]) if self.config.conditional else 0

    @property
    def width(self) -> int:
        usual = AUTO_WIDTHS.get(self.config.network, min(64, self.facts["image_size"]))
        return usual if self.config.width == "auto" else int(self.config.width)

    def networks(self) -> dict[str, nn.Module]:
        config, channels, size = self.config, self.facts["channels"], self.facts["image_size"]
        more = {"classes": self.classes, "norm_after": config.norm_after_activation}
        images, norms = (self.width, channels, size), (config.generator_norm, self.critic_norm)
        if config.network == "mlp":
            return {
                "generator": PerceptronGenerator(config.latent_dim, *images, norms[0], **more),
                self.critic: PerceptronCritic(*images, norms[1], **more),
            }
        more["extra"] = config.n_extra_layers
        return {
            "generator": Generator(config.latent_dim, *images, config.upsample, norm=norms[0], **more),
            self.critic: Critic(*images, norms[1], head=config.head, **more),
        }

    def alike(self, networks: Mapping[str, nn.Module], kind: Callable[..., Any], **arguments: Any) -> Optimizers:
        """An optimizer of this kind for each network, all with the schedule of the settings."""
        course = schedules.of(self.config, self.config.learning_rate)
        return {name: (kind(network.parameters(), **arguments), course) for name, network in networks.items()}

    # Inputs of losses

    def real(self, microbatch: MicroBatch) -> Tensor:
        return signed(microbatch["images"], microbatch.dtype)

    def labels(self, microbatch: MicroBatch) -> Tensor | None:
        """Labels in a conditional run: the generator makes images of the classes of the real ones."""
        return microbatch["labels"] if self.classes else None

    def fakes(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        latent = microbatch.randn(microbatch.size, self.config.latent_dim, 1, 1)
        images: Tensor = networks["generator"](latent, self.labels(microbatch))
        return images

    def shown(self, microbatch: MicroBatch, fakes: Tensor) -> list[Shown]:
        """The inputs of the critic: real images, fakes, and, if enabled, real images with a wrong class."""
        real, labels = self.real(microbatch), self.labels(microbatch)
        wrong = [(real, self.mismatched(microbatch))] if self.config.mismatched_negatives else []
        return [(real, labels), (fakes, labels), *wrong]

    def scores(self, networks: Networks, microbatch: MicroBatch, *shown: Shown) -> list[Tensor]:
        """Scores (rows,) of each of these; in one pass unless a norm makes them depend on other images."""
        if self.critic_norm:
            return [networks[self.critic](*part).to(microbatch.dtype) for part in shown]
        scores: Tensor = networks[self.critic](*concatenated_images(shown))
        return list(scores.to(microbatch.dtype).chunk(len(shown)))

    def mismatched(self, microbatch: MicroBatch) -> Tensor:
        """A wrong class for each image."""
        labels = microbatch["labels"]
        away = torch.randint(1, self.classes, labels.shape, generator=microbatch.random, device=labels.device)
        return (labels + away) % self.classes

    def generated(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        return self.fakes(networks, microbatch)

    # Checks for signs of failure

    def watch(self, data: Data, inputs: Mapping[str, Tensor], drawn: Tensor) -> Watch | None:
        if self.config.on_collapse == "off":
            return None
        watched = watching.images_of(data, drawn, inputs.get("labels"), self.config)
        stream = InOrder(
            len(watched["kinds"]),
            lambda places: {name: part[places] for name, part in watched.items()},
            self.config.microbatch_size,
        )
        unless = "on_collapse=warn" if self.config.on_collapse == "stop" else ""
        return Watch(stream, self.extract_watched, watching.numbers_of, watching.worry, unless)

    def extract_watched(self, networks: Networks, microbatch: MicroBatch) -> Rows:
        images = signed(microbatch["images"], microbatch.dtype)
        (scores,) = self.scores(networks, microbatch, (images, self.labels(microbatch)))
        return {"kinds": microbatch["kinds"], "scores": scores, "pixels": watching.small(images)}

    # The grid

    def grid(self) -> SampleSettings:
        if not self.classes:
            return super().grid()
        settings: SampleSettings = self.config.sample_settings(count=COLUMNS * min(self.classes, ROWS), columns=COLUMNS)
        return settings

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        inputs = {"latent": torch.randn(settings.count, self.config.latent_dim, 1, 1, generator=random)}
        chosen: str = settings.class_  # type: ignore[attr-defined]
        if not self.classes:
            if chosen != "each":
                reason, hint = "the run is not conditional", "train one with conditional=true"
                raise TroupeError(Problem("unknown-class", "class", reason, hint, chosen), USAGE)
            return inputs
        if chosen != "each":
            return {**inputs, "labels": torch.full((settings.count,), self.class_number(chosen))}
        columns = settings.columns or round(settings.count**0.5) or 1
        return {**inputs, "labels": torch.arange(settings.count) // columns % self.classes}

    def class_number(self, chosen: str) -> int:
        """The number of a class given by name or number. Raises TroupeError (exit code 2) if there is no such class."""
        names = [str(name) for name in self.facts["class_names"]]
        if chosen in names:
            return names.index(chosen)
        if chosen.isdigit() and int(chosen) < self.classes:
            return int(chosen)
        hint = did_you_mean(chosen, names) or f"there are {', '.join(names[:10])}{', ...' if names[10:] else ''}"
        raise TroupeError(Problem("unknown-class", "class", "no such class", hint, chosen), USAGE)

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        images: Tensor = networks["generator"](inputs["latent"], inputs.get("labels"))
        return images.add(1).div(2)


class Wasserstein(Adversarial):
    """Some steps of the critic on fresh images, then one of the generator.

    If the critic's slopes are bounded, the scores of real images minus those of fakes measure how far the two are apart
    (Arjovsky et al. 2017, section 3), up to a factor.
    """

    def phases(self, step: int) -> tuple[Phase, ...]:
        critic = Phase("critic", ("critic",), "critic", self.criticise, **self.constraints())
        generator = Phase("generator", ("generator",), "generator", self.generate, new_batch=False)
        return (*[critic] * self.config.batches_per_step(step), generator)

    def criticise(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        raise NotImplementedError

    def constraints(self) -> dict[str, Any]:
        """What bounds the critic in each of its phases, as `pre_loss` or `post_step`."""
        return {}

    def distance(self, real: Tensor, fake: Tensor, wrong: Sequence[Tensor] = ()) -> Tensor:
        """Mean score of real images minus that of all others."""
        return real.mean() - torch.stack([part.mean() for part in (fake, *wrong)]).mean()

    def generate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        (fake,) = self.scores(networks, microbatch, (self.fakes(networks, microbatch), self.labels(microbatch)))
        return Loss(-fake.mean())


def concatenated_images(shown: Sequence[Shown]) -> Shown:
    """Images and their classes, concatenated."""
    images, labels = zip(*shown, strict=True)
    known = [part for part in labels if part is not None]
    return torch.cat(images), torch.cat(known) if known else None
