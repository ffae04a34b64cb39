"""Settings of a made-up family that learns from what a network that nobody trains has seen, looked at once."""

from typing import ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Cached(ImageConfig):
    summary: ClassVar[str] = "made up for tests: a small net on the features of a frozen one, computed once"
    metrics: ClassVar = {"accuracy": "max", "loss": "min"}
    defaults: ClassVar = {"image_size": 8}
    tiny: ClassVar = {"tiny": {"batch_size": 8, "microbatch_size": 2, "steps": 4, "memory_format": "contiguous"}}

    features: int = setting(64, "numbers that the frozen network tells of an image", at_least=1, network=True)
    learning_rate: float = setting(0.01, "of Adam", above=0)
