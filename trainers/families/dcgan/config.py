"""Settings of DCGAN: Radford, Metz, Chintala, "Unsupervised Representation Learning with DCGANs", 2016."""

from typing import ClassVar, Literal

from trainers.data.settings import ImageConfig
from trainers.engine.settings import Check, setting


def _size(image_size: int | str) -> str | None:
    if image_size in ("auto", 16, 32, 64, 128):
        return None
    return f"image_size={image_size}: DCGAN takes 16, 32, 64 or 128"


class Config(ImageConfig):
    summary: ClassVar[str] = "deep convolutional GAN, non-saturating loss (Radford et al. 2016)"
    checks: ClassVar[tuple[Check, ...]] = (*ImageConfig.checks, Check(("image_size",), _size))
    momentum_setting: ClassVar = "beta1"
    defaults: ClassVar = {"steps": 3000, "ema": 0.98, "cycle_momentum": (0.5, 0.5)}
    tiny: ClassVar = {
        "tiny": {"image_size": 16, "width": 8, "latent": 16, "batch_size": 16, "microbatch_size": 4, "steps": 4},
        "nearest": {"image_size": 16, "width": 4, "latent": 8, "batch_size": 8, "microbatch_size": 2, "steps": 4,
                    "upsample": "nearest", "ema": 0.9},
    }  # fmt: skip

    latent: int = setting(100, "numbers that an image is made from", at_least=1, source="Radford 2016, section 4")
    width: int | Literal["auto"] = setting("auto", "channels at half size; auto: image size, at most 64", at_least=1)
    learning_rate: float = setting(2e-4, "of both Adams", above=0, source="Radford 2016, section 4")
    beta1: float = setting(0.5, "momentum of both Adams", at_least=0, below=1, source="Radford 2016, section 4")
    upsample: Literal["transposed", "nearest"] = setting("transposed", "how images grow; nearest: no checkerboards")
