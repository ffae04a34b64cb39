"""The settings of every family that learns from images."""

from collections.abc import Mapping
from typing import Any, Literal

from trainers.engine.config import Config, parts_of
from trainers.engine.settings import setting

SMALL = frozenset(("digits", "mnist", "fashion_mnist", "cifar10", "stacked_digits", "stacked_mnist"))  # 32 pixels each


class ImageConfig(Config):
    """What every family that learns from images has besides."""

    image_size: int | Literal["auto"] = setting(
        "auto", "side of the images; auto: the next power of two, 64 for folders", unit="pixels", at_least=8,
        at_most=1024, network=True,
    )  # fmt: skip

    @classmethod
    def side(cls, said: Mapping[str, Any]) -> int:
        """The side of the images that settings ask for, in pixels, as far as their words tell; 64 where they do not."""
        size = said.get("image_size", "auto")
        if size != "auto":
            return int(size)
        data = str(said.get("data", cls.model_fields["data"].get_default()))
        return 32 if SMALL.issuperset(parts_of(data)) else 64
