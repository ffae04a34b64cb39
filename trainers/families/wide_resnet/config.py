"""Settings of Wide-ResNet: Zagoruyko and Komodakis, "Wide Residual Networks", 2016 (arXiv 1605.07146)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.base.problems import Problem
from trainers.families.classification.residual import ResidualConfig
from trainers.families.classification.settings import TINY
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE, VALUE


def _depth(depth: int, convs_per_block: int, groups: int) -> Problem | None:
    step, rest = groups * convs_per_block, groups + 1
    if depth > rest and (depth - rest) % step == 0:
        return None
    near = max(rest + step, depth - (depth - rest) % step)
    counted = f"in each of {groups} groups" if groups > 1 else "in the group"
    reason = f"must be {step}n + {rest}, for n blocks of {convs_per_block} {counted}"
    return Problem(VALUE, "depth", reason, f"use depth={near} or depth={near + step}", depth)


def _one_group(width_multiplier: float, groups: int) -> Problem | None:
    if groups > 1 or width_multiplier == 2:
        return None
    return Problem(BESIDE, "width_multiplier", "there is one group", "leave it out", width_multiplier)


class Config(ResidualConfig):
    summary: ClassVar[str] = "Wide-ResNet, WRN-depth-widen_factor"
    checks: ClassVar[tuple[Check, ...]] = (
        *ResidualConfig.checks,
        Check(("depth", "convs_per_block", "groups"), _depth),
        Check(("width_multiplier", "groups"), _one_group),
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 200.0,
        "schedule": "step",
        "layer_order": "norm_act_conv",
        "leaky_slope": 0.0,
    }  # section 3, with steps at 60, 120, 160 of 200
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {**TINY, "depth": 10, "widen_factor": 1, "dropout": 0.3, "crop_padding": 1, "label_smoothing": 0.1}
    }

    depth: int = setting(
        28, "convolutions in a row: 6n + 4 with 2 in a block and 3 groups", at_least=3, at_most=10_000, network=True
    )
    widen_factor: int = setting(10, "times the width of the thin network", at_least=1, at_most=10_000, network=True)
    groups: int = setting(
        3,
        "groups of blocks; all but the first halve the images",
        at_least=1,
        at_most=10,
        source="Zagoruyko 2016, table 1",
        network=True,
    )
    dropout: float = setting(
        0.0,
        "before each convolution of a block but the first, or before its only one",
        at_least=0,
        below=1,
        source="Zagoruyko 2016, section 2.4",
    )

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        side = facts["image_size"]
        for _ in range(self.groups - 1):
            side = -(-side // 2)
        return [*super().validate_data(facts), *self.lonely_norms(side)]
