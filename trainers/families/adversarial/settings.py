"""Settings that the adversarial families share."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from trainers.data.settings import ImageConfig
from trainers.engine.config import Asked
from trainers.engine.settings import Check, setting

SIZES = (16, 32, 64, 128)


def _size(image_size: int | str) -> str | None:
    if image_size == "auto" or image_size in SIZES:
        return None
    return f"image_size={image_size}: the networks make images of 16, 32, 64 or 128 pixels; say one of these"


def _classes_known(mismatched_negatives: bool, conditional: bool) -> str | None:
    if conditional or not mismatched_negatives:
        return None
    return "mismatched_negatives=true: is of conditional runs; say conditional=true"


class AskedImages(Asked):
    class_: str = setting("each", "the class of a conditional run, by name or number; each: row after row")


class AdversarialConfig(ImageConfig):
    """What every family of a generator and a network that judges its images has."""

    checks: ClassVar[tuple[Check, ...]] = (
        *ImageConfig.checks,
        Check(("image_size",), _size),
        Check(("mismatched_negatives", "conditional"), _classes_known),
    )
    asked: ClassVar[type[Asked]] = AskedImages
    defaults: ClassVar[Mapping[str, Any]] = {"steps": 3000, "ema": 0.98}

    latent: int = setting(100, "numbers that an image is made from", at_least=1, source="Radford 2016, section 4")
    width: int | Literal["auto"] = setting("auto", "channels at half size; auto: image size, at most 64", at_least=1)
    upsample: Literal["transposed", "nearest"] = setting("transposed", "how images grow; nearest: no checkerboards")
    n_extra_layers: int = setting(
        0, "3x3 convolutions more in each network, at half size", at_least=0, at_most=16,
        source="Arjovsky 2017, as published by its authors",
    )  # fmt: skip
    norm_after_activation: bool = setting(False, "batch norm after the activation, in place of before it")
    conditional: bool = setting(False, "learn each class of labelled data by itself", source="Mirza 2014, section 3")
    mismatched_negatives: bool = setting(
        False, "conditional: real images with a wrong class count as not real too", source="Reed 2016, section 4.2"
    )

    def misfit(self, facts: Mapping[str, Any]) -> list[str]:
        mistakes = super().misfit(facts)
        if self.conditional and facts["classes"] < 2:
            known = f"one class ({facts['class_names'][0]})" if facts["classes"] else "no labels"
            mistakes.append(f"conditional=true: data={self.data} has {known}; leave it out, or take data with classes")
        return mistakes
