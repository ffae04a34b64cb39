"""Settings of a made-up family whose pictures are what is learned."""

from typing import ClassVar

from trainers.data.settings import ImageConfig
from trainers.settings.fields import setting


class Painted(ImageConfig):
    summary: ClassVar[str] = "made up for tests: pictures optimised by L-BFGS until their features are those of others"
    defaults: ClassVar = {"image_size": 8}
    tiny: ClassVar = {"tiny": {"batch_size": 8, "microbatch_size": 2, "steps": 4, "memory_format": "contiguous"}}

    width: int = setting(4, "channels of the features", at_least=1, network=True)
