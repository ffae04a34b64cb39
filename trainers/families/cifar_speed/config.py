"""Settings of a network and its training for 94 % on CIFAR-10 in the least time.

After Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv 2404.00498); values from its section 3 and
the settings published with it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from trainers.base.problems import Problem
from trainers.families.classification.settings import TINY, ClassificationConfig, view
from trainers.settings.config import MISFIT
from trainers.settings.fields import Check, setting
from trainers.settings.rules import VALUE


def _three(widths: tuple[int, ...]) -> Problem | None:
    if len(widths) == 3:
        return None
    return Problem(VALUE, "widths", "needs three, as in widths=64:256:256", value=widths)


def _sgd(optimizer: str) -> Problem | None:
    if optimizer == "sgd":
        return None
    return Problem(VALUE, "optimizer", "cifar_speed supports only sgd", "leave it out", optimizer)


class Config(ClassificationConfig):
    summary: ClassVar[str] = "a small fast net with many training tricks: CIFAR-10 to 94 % in the least time"
    checks: ClassVar[tuple[Check, ...]] = (
        *ClassificationConfig.checks,
        Check(("widths",), _three),
        Check(("optimizer",), _sgd),
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 11,
        "batch_size": 1024,
        "microbatch_size": 256,
        "precision": "bfloat16",
        "learning_rate": 1.5,
        "momentum": 0.85,
        "weight_decay": 1.33e-3,  # the published values, for a mean instead of a sum
        "schedule": "one_cycle",
        "cycle_ratio": 5.0,
        "cycle_peak": 0.23,
        "cycle_tail": 0.2,
        "cycle_momentum": (0.85, 0.85),
        "label_smoothing": 0.2,
        "crop_padding": 2,
        "flip": "alternating",
    }
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            **TINY,
            "image_size": 32,
            "widths": (4, 8, 8),
            "steps": 6,
            "precision": "float32",
            "learning_rate": 0.01,
        }
    }

    widths: tuple[int, ...] = setting(
        (64, 256, 256),
        "channels of the three groups",
        at_least=1,
        at_most=1_000_000,
        source="Jordan 2024, section 3.1",
        network=True,
    )
    bias_scale: float = setting(
        64.0,
        "factor of the learning rate for the biases of norms",
        above=0,
        log=True,
        source="Jordan 2024, section 3.4",
        group="optimizer",
    )
    lookahead: int = setting(
        5,
        "steps between pulls of the weights to their moving average; 0: never",
        unit="steps",
        at_least=0,
        source="Jordan 2024, section 3.4",
        group="optimizer",
    )
    test_views: Literal["one", "mirror", "six"] = setting(
        "six",
        "test-time augmentation; mirror: the mirror image too; six: both, also shifted by a pixel in two directions",
        source="Jordan 2024, section 3.5",
        group="evaluation",
    )

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        size = facts["image_size"]
        if 25 <= size <= 48:  # one pixel is left after the pools
            return super().validate_data(facts)
        reason = "cifar_speed needs 25 to 48 pixels"
        return [*super().validate_data(facts), Problem(MISFIT, "image_size", reason, "use image_size=32", size)]

    @property
    def depends_on_total_steps(self) -> bool:
        return super().depends_on_total_steps or self.lookahead > 0  # its strength depends on the length of the run

    @property
    def evaluation_passes(self) -> int:
        return {"one": 1, "mirror": 2, "six": 6}[self.test_views]

    def views(self) -> list[dict[str, Any]]:
        if self.test_views == "one":
            return super().views()
        if self.test_views == "mirror":
            return [view(1 / 2, mirrored) for mirrored in (False, True)]
        moved = [view(1 / 8, mirrored, way) for way in ((1, 1), (-1, -1)) for mirrored in (False, True)]
        return [view(1 / 4), view(1 / 4, True), *moved]
