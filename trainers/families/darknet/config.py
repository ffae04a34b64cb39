"""Settings of Darknet: the backbone of Redmon and Farhadi, "YOLOv3", 2018 (arXiv 1804.02767), for small images."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.base.problems import Problem
from trainers.families.classification.settings import TINY, ClassificationConfig
from trainers.settings.config import MISFIT
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE, VALUE


def _ten_groups(blocks: tuple[int, ...]) -> Problem | None:
    if len(blocks) <= 10:
        return None
    return Problem(VALUE, "blocks", f"{len(blocks)} groups, each halving the pixels", "use at most 10", blocks)


def _group(stride_one: int, blocks: tuple[int, ...]) -> Problem | None:
    if stride_one < len(blocks):
        return None
    reason = f"there are {len(blocks)} groups, counted from 0"
    return Problem(BESIDE, "stride_one", reason, f"use at most {len(blocks) - 1}", stride_one)


class Config(ClassificationConfig):
    summary: ClassVar[str] = "Darknet: residual layers with a bottleneck or a widening, in groups"
    checks: ClassVar[tuple[Check, ...]] = (
        *ClassificationConfig.checks,
        Check(("stride_one", "blocks"), _group),
        Check(("blocks",), _ten_groups),
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 30.0,
        "batch_size": 256,
        "microbatch_size": 64,
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
        "schedule": "one_cycle",
    }
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bottleneck": {**TINY, "blocks": (1, 1), "first_width": 4, "crop_padding": 1, "cutout": 3},
        "widening": {
            **TINY,
            "blocks": (1,),
            "first_width": 64,
            "inner": 2.0,
            "stride_one": 0,
            "flip": "alternating",
            "crop_padding": 0,
        },
    }

    blocks: tuple[int, ...] = setting(
        (1, 2, 4, 6, 3), "residual layers of each group, as 1:2:4:6:3", at_least=0, at_most=1000, network=True
    )
    first_width: int = setting(
        32,
        "channels before the first group, which doubles them, as each does",
        at_least=1,
        at_most=100_000,
        network=True,
    )
    inner: float = setting(
        0.5,
        "channels inside a residual layer, as a part of those outside: a bottleneck below 1, a widening above",
        above=0,
        at_most=100,
        network=True,
    )
    stride_one: int = setting(
        1, "the group that keeps the images' size, counted from 0; -1 for none", at_least=-1, network=True
    )

    def validate_data(self, facts: Mapping[str, Any]) -> list[Problem]:
        problems, side = super().validate_data(facts), facts["image_size"]
        for group in range(len(self.blocks)):
            side = side if group == self.stride_one else -(-side // 2)
        if side == 1 and self.microbatch_size == 1:
            reason = "the last norms need at least two images"
            problems.append(Problem(MISFIT, "microbatch_size", reason, "use microbatch_size=2", 1))
        return problems
