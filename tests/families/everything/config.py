"""Settings of a made-up family that uses each part of the contract that DCGAN does not."""

from typing import ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Config(ImageConfig):
    summary: ClassVar[str] = "made up for tests: penalties, clipping, carried state, masks, closures, evaluation"
    metrics: ClassVar = {"accuracy": "max"}
    tiny: ClassVar = {
        "tiny": {"batch_size": 24, "microbatch_size": 4, "steps": 4, "evaluate_every": 2,
                 "memory_format": "contiguous"},
        "uneven": {"batch_size": 20, "microbatch_size": 4, "steps": 4, "ema": 0.9, "memory_format": "contiguous"},
    }  # fmt: skip

    hidden: int = setting(12, "size of the recurrent state", at_least=1, network=True)
    critic_steps: int = setting(2, "steps of the critic before one of the generator", at_least=1)

    def batches_per_step(self, step: int) -> int:
        return self.critic_steps + (step == 0) + 2
