"""Settings of DCGAN: Radford, Metz, Chintala, "Unsupervised Representation Learning with DCGANs", 2016."""

from typing import ClassVar

from trainers.families.adversarial.settings import AdversarialConfig
from trainers.settings.fields import setting


class Config(AdversarialConfig):
    summary: ClassVar[str] = "deep convolutional GAN, non-saturating loss (Radford et al. 2016)"
    momentum_setting: ClassVar = "beta1"
    defaults: ClassVar = {"cycle_momentum": (0.5, 0.5)}
    small: ClassVar = {"learning_rate": 3e-3, "batch_size": 32, "ema": 0.95, "steps": 1500}  # see docs/search.md
    tiny: ClassVar = {
        "tiny": {"image_size": 16, "width": 8, "latent_dim": 16, "batch_size": 16, "microbatch_size": 4, "steps": 4},
        "nearest": {
            "image_size": 16,
            "width": 4,
            "latent_dim": 8,
            "batch_size": 8,
            "microbatch_size": 2,
            "steps": 4,
            "upsample": "nearest",
            "ema": 0.9,
        },
        "conditional": {
            "image_size": 16,
            "width": 4,
            "latent_dim": 8,
            "batch_size": 8,
            "microbatch_size": 2,
            "steps": 4,
            "conditional": True,
            "mismatched_negatives": True,
        },
    }

    learning_rate: float = setting(
        2e-4,
        "learning rate of both Adam optimizers",
        above=0,
        log=True,
        source="Radford 2016, section 4",
        group="optimizer",
    )
    beta1: float = setting(
        0.5, "beta1 of both Adam optimizers", at_least=0, below=1, source="Radford 2016, section 4", group="optimizer"
    )
