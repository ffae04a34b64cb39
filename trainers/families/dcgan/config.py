"""Settings of DCGAN: Radford, Metz, Chintala, "Unsupervised Representation Learning with DCGANs", 2016."""

from typing import ClassVar

from trainers.families.adversarial.settings import TINY, AdversarialConfig, beta, norm_of_critic, rate


class Config(AdversarialConfig):
    summary: ClassVar[str] = "deep convolutional GAN, non-saturating loss (Radford et al. 2016)"
    momentum_setting: ClassVar = "beta1"
    defaults: ClassVar = {"cycle_momentum": (0.5, 0.5)}
    small: ClassVar = {"learning_rate": 3e-3, "batch_size": 32, "ema": 0.95, "steps": 1500}  # see docs/search.md
    tiny: ClassVar = {
        "tiny": {"image_size": 16, "width": 8, "latent_dim": 16, "batch_size": 16, "microbatch_size": 4, "steps": 4},
        "nearest": {**TINY, "upsample": "nearest", "ema": 0.9},
        "bicubic": {**TINY, "upsample": "bicubic", "head": "pool", "generator_norm": False, "critic_norm": False},
        "conditional": {**TINY, "conditional": True, "mismatched_negatives": True},
    }

    learning_rate: float = rate(2e-4, "Adam", "Radford 2016, section 4")
    beta1: float = beta("beta1", 0.5, "Radford 2016, section 4")
    critic_norm: bool = norm_of_critic("discriminator", "Radford 2016, section 3")
