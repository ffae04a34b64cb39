"""Settings of WGAN-GP: Gulrajani et al., "Improved Training of Wasserstein GANs", 2017 (arXiv 1704.00028)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from trainers.base.problems import Problem
from trainers.families.adversarial.settings import TINY, AdversarialConfig, beta, critic_steps, rate
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE


def _resnet_size(network: str, image_size: int | str) -> Problem | None:
    if network != "resnet" or image_size in ("auto", 32):
        return None
    reason, hint = "network=resnet makes images of 32 pixels", "use image_size=32, or network=dcgan"
    return Problem(BESIDE, "image_size", reason, hint, image_size)


def _penalised(penalty: float, penalty_sides: str) -> Problem | None:
    if penalty or penalty_sides == "two":
        return None
    return Problem(BESIDE, "penalty_sides", "has no effect with penalty=0", "leave it out", penalty_sides)


class Config(AdversarialConfig):
    summary: ClassVar[str] = "Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017)"
    momentum_setting: ClassVar = "beta1"
    checks: ClassVar[tuple[Check, ...]] = (
        *AdversarialConfig.checks,
        Check(("network", "image_size"), _resnet_size),
        Check(("penalty", "penalty_sides"), _penalised),
    )
    defaults: ClassVar = {"cycle_momentum": (0.0, 0.0)}
    small: ClassVar = {
        "learning_rate": 2e-3,
        "n_critic": 1,
        "batch_size": 32,
        "ema": 0.95,
        "steps": 1500,
    }  # docs/search.md
    tiny: ClassVar = {
        "tiny": {
            **TINY,
            "learning_rate": 1e-4,
            "width": 8,
            "latent_dim": 16,
            "batch_size": 16,
            "microbatch_size": 4,
            "n_critic": 2,
        },
        "resnet": {**TINY, "image_size": 32, "steps": 3, "n_critic": 2, "network": "resnet", "conditional": True},
    }

    network: Literal["dcgan", "mlp", "resnet"] = setting(  # type: ignore[assignment]
        "dcgan",
        "DCGAN's, without norms in the critic; mlp: fully connected; or the paper's residual ones for 32 pixels",
        source="Gulrajani 2017, appendices B and C",
        network=True,
    )
    penalty: float = setting(
        10.0,
        "weight of the gradient penalty",
        at_least=0,
        log=True,
        source="Gulrajani 2017, algorithm 1",
        group="optimizer",
    )
    penalty_sides: Literal["two", "one"] = setting(
        "two",
        "two: on gradient norms above and below 1; one: above 1 only",
        source="Gulrajani 2017, section 4",
        group="optimizer",
    )
    n_critic: int = critic_steps("Gulrajani 2017, algorithm 1")
    learning_rate: float = rate(1e-4, "Adam", "Gulrajani 2017, algorithm 1")
    beta1: float = beta("beta1", 0.0, "Gulrajani 2017, algorithm 1")
    beta2: float = beta("beta2", 0.9, "Gulrajani 2017, algorithm 1")

    @classmethod
    def derived_defaults(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """The residual networks keep the paper's, which are for their 32 pixels."""
        return {} if said.get("network") == "resnet" else super().derived_defaults(said)

    def batches_per_step(self, step: int) -> int:
        return self.n_critic

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        problem = _resnet_size(self.network, facts["image_size"])
        return [*super().validate_data(facts), *([problem] if problem else [])]
