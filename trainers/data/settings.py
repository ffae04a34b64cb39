"""The settings of every family that learns from images."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from trainers.base.problems import Problem, show_value
from trainers.settings.config import Config, parts_of
from trainers.settings.fields import Check, setting
from trainers.settings.rules import VALUE

SMALL = frozenset(("digits", "mnist", "fashion_mnist", "cifar10", "stacked_digits", "stacked_mnist"))  # 32 pixels each


FURTHEST = 1e15  # value of black or white


def _black_below_white(value_range: str | tuple[float, float]) -> Problem | None:
    if isinstance(value_range, str) or value_range[0] < value_range[1]:
        return None
    hint = "give the value of black, then a larger one of white, as in value_range=0:4095"
    return Problem(VALUE, "value_range", "is not a range", hint, value_range)


class ImageConfig(Config):
    """The additional settings of every family that learns from images."""

    checks: ClassVar[tuple[Check, ...]] = (*Config.checks, Check(("value_range",), _black_below_white))
    image_size: int | Literal["auto"] = setting(
        "auto",
        "side of the images; auto: the next power of two, 64 for folders",
        unit="pixels",
        at_least=8,
        at_most=1024,
        network=True,
        group="data",
    )

    folders: Literal["auto", "parts", "classes"] = setting(
        "auto",
        "meaning of the folders in imagefolder:PATH: splits such as train and test, or classes; auto: by their names",
        group="data",
    )
    value_range: Literal["auto", "full"] | tuple[float, float] = setting(
        "auto",
        "values of black and white in images of imagefolder:PATH, as 0:4095; auto: the full range of such files, with "
        "a warning if images fill little of it; full: without the warning",
        at_least=-FURTHEST,
        at_most=FURTHEST,
        group="data",
    )

    def warnings(self) -> list[str]:
        of_folders = [name for name in ("folders", "value_range") if getattr(self, name) != "auto"]
        if any(part.startswith("imagefolder:") for part in parts_of(self.data)):
            of_folders = []
        return super().warnings() + [
            f"{name}={show_value(getattr(self, name))}: has no effect with data={self.data}, only with imagefolder:"
            for name in of_folders
        ]

    def no_held_out_reason(self, facts: Mapping[str, Any]) -> str:
        reasons = facts.get("unread_held_out", "")
        return f"none of the held-out images can be read ({reasons})" if reasons else super().no_held_out_reason(facts)

    @classmethod
    def side(cls, said: Mapping[str, Any]) -> int:
        """The side of the images in pixels, as far as the given settings determine it; otherwise 64."""
        size = said.get("image_size", "auto")
        if size != "auto":
            return int(size)
        data = str(said.get("data", cls.model_fields["data"].get_default()))
        return 32 if SMALL.issuperset(parts_of(data)) else 64
