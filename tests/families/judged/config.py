"""Settings of a made-up family whose samples are judged by a network that nobody trains."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Judged(ImageConfig):
    summary: ClassVar[str] = "made up for tests: a generator, and the Frechet distance of its samples from real ones"
    metrics: ClassVar = {"frechet_distance": "min"}
    defaults: ClassVar = {"image_size": 8}
    tiny: ClassVar = {"tiny": {"batch_size": 8, "microbatch_size": 2, "steps": 4, "judged": 48, "ema": 0.9}}

    judged: int = setting(512, "samples that an evaluation draws", unit="samples", at_least=8)
    latent: int = setting(4, "numbers that an image is made from", at_least=1, network=True)

    def num_held_out(self, facts: Mapping[str, Any]) -> int:
        return self.judged
