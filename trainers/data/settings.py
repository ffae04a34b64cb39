"""The settings of every family that learns from images."""

from typing import Literal

from trainers.engine.config import Config
from trainers.engine.settings import setting


class ImageConfig(Config):
    """What every family that learns from images has besides."""

    image_size: int | Literal["auto"] = setting(
        "auto", "side of the images; auto: the next power of two, 64 for folders", unit="pixels", at_least=8,
        at_most=1024, network=True,
    )  # fmt: skip
