"""Settings of a made-up family that dreams: pictures climb, at one size after another, to what a network likes."""

from typing import ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Dream(ImageConfig):
    summary: ClassVar[str] = "made up for tests: pictures that climb by normalised gradients, in octaves"
    defaults: ClassVar = {"image_size": 16, "batch_size": 1, "microbatch_size": 1}
    tiny: ClassVar = {"tiny": {"batch_size": 4, "microbatch_size": 1, "steps": 4, "memory_format": "contiguous"}}

    octaves: int = setting(2, "sizes that a picture is dreamt at, the smallest first", at_least=1, at_most=8)
    octave_scale: float = setting(1.4, "from one size to the next", above=1)
    jitter: int = setting(2, "how far a picture is moved before each step, at most", unit="pixels", at_least=0)
    learning_rate: float = setting(0.05, "of a step, over the mean size of its gradient", above=0)
