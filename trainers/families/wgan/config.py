"""Settings of WGAN: Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017 (arXiv 1701.07875)."""

from typing import ClassVar, Literal

from trainers.families.adversarial.settings import TINY, AdversarialConfig, critic_steps, norm_of_critic, rate
from trainers.settings.fields import setting


class Config(AdversarialConfig):
    summary: ClassVar[str] = "Wasserstein GAN, a critic with clipped weights (Arjovsky et al. 2017)"
    small: ClassVar = {  # docs/search.md gives the reasons
        "learning_rate": 1e-3,
        "n_critic": 1,
        "n_critic_warmup": 0,
        "clip": 0.1,
        "batch_size": 32,
        "ema": 0.95,
        "steps": 1500,
    }
    tiny: ClassVar = {
        "tiny": {
            **TINY,
            "learning_rate": 5e-5,
            "clip": 0.01,
            "width": 8,
            "latent_dim": 16,
            "batch_size": 16,
            "microbatch_size": 4,
            "n_critic": 2,
            "n_critic_warmup": 3,
            "warmup_steps": 1,
            "n_extra_layers": 1,
        },
        "no_norm": {
            **TINY,
            "learning_rate": 5e-5,
            "clip": 0.01,
            "n_critic": 2,
            "n_critic_warmup": 0,
            "critic_norm": False,
            "norm_after_activation": True,
            "conditional": True,
        },
        "clip_before": {
            **TINY,
            "learning_rate": 1e-3,
            "width": 16,
            "clip": 0.1,
            "clip_when": "before",
            "n_critic": 2,
            "n_critic_warmup": 0,
            "network": "mlp",
        },
    }

    learning_rate: float = rate(5e-5, "RMSprop", "Arjovsky 2017, algorithm 1")
    n_critic: int = critic_steps("Arjovsky 2017, algorithm 1")
    n_critic_warmup: int = setting(
        100,
        "critic steps in each of the first `warmup_steps` and in every 500th step; 0: n_critic there too",
        at_least=0,
        at_most=10_000,
        source="Arjovsky 2017, as published by its authors",
        group="optimizer",
    )
    warmup_steps: int = setting(
        25,
        "steps at the start that take n_critic_warmup critic steps",
        unit="steps",
        at_least=0,
        source="Arjovsky 2017, as published by its authors",
        group="optimizer",
    )
    clip: float = setting(
        0.01,
        "clipping bound of the critic's weights",
        above=0,
        log=True,
        source="Arjovsky 2017, algorithm 1",
        group="optimizer",
    )
    clip_when: Literal["after", "before"] = setting(
        "after",
        "clip after each critic step, or before it, which leaves the last one unclipped",
        source="Arjovsky 2017, algorithm 1",
        group="optimizer",
    )
    critic_norm: bool = norm_of_critic("critic", "Arjovsky 2017, section 4.3 shows both")

    def batches_per_step(self, step: int) -> int:
        long = self.n_critic_warmup and (step < self.warmup_steps or step % 500 == 0)
        return self.n_critic_warmup if long else self.n_critic
