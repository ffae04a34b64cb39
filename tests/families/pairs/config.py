"""Settings of a made-up family that translates between two sets of pictures that have nothing to do with each other."""

from typing import ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Pairs(ImageConfig):
    summary: ClassVar[str] = "made up for tests: translation between two unpaired sets, with a pool of past pictures"
    metrics: ClassVar = {"cycle": "min"}
    input_kind: ClassVar[str] = "images+images"
    defaults: ClassVar = {"data": "digits+noise", "image_size": 8}
    tiny: ClassVar = {"tiny": {"batch_size": 8, "microbatch_size": 2, "steps": 4, "memory_format": "contiguous"}}

    width: int = setting(3, "channels inside", at_least=1, network=True)
