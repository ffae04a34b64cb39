"""Settings of a made-up family that breaks where a test wants it to."""

from typing import ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Config(ImageConfig):
    summary: ClassVar[str] = "made up for tests: fails on request"
    metrics: ClassVar = {"right": "max"}
    defaults: ClassVar = {"evaluate_every": 0}
    tiny: ClassVar = {
        "tiny": {"image_size": 8, "batch_size": 8, "microbatch_size": 2, "steps": 6, "checkpoint_every": 2},
    }

    nan_at: int = setting(-1, "step at which one loss is not a number", kind="running")
    nan_phase: str = setting("second", "phase in which it happens", kind="running")
    raise_at: int = setting(-1, "step at which the loss of one micro-batch raises", kind="running")
    guilty: int = setting(1, "micro-batch on which it happens", kind="running")
    pause: float = setting(0.0, "seconds that each micro-batch takes longer", kind="running", unit="seconds")
    evaluation_pause: float = setting(
        0.0, "seconds that each chunk of an evaluation takes longer", kind="running", unit="seconds"
    )
    ballast: int = setting(0, "size of a buffer that makes checkpoints large", unit="MB")

    def batches_per_step(self, step: int) -> int:
        return 2
