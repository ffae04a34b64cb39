"""Settings of a made-up family that fits a polynomial to points that are made as they are asked for."""

from typing import ClassVar

from trainers.settings.config import Config
from trainers.settings.fields import setting


class Curve(Config):
    summary: ClassVar[str] = "made up for tests: a polynomial, fitted to points without end until it is good enough"
    metrics: ClassVar = {"error": "min"}
    input_kind: ClassVar[str] = "points"
    defaults: ClassVar = {"data": "cubic"}
    tiny: ClassVar = {"tiny": {"batch_size": 8, "microbatch_size": 2, "steps": 4}}

    degree: int = setting(3, "of the polynomial", at_least=1, network=True)
    learning_rate: float = setting(0.3, "of gradient descent", above=0)
