"""Settings of Darknet: the backbone of Redmon and Farhadi, "YOLOv3", 2018 (arXiv 1804.02767), for small images."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.base.problems import Problem
from trainers.families.classification.residual import ResidualConfig
from trainers.families.classification.settings import TINY
from trainers.settings.fields import Check, setting
from trainers.settings.rules import BESIDE, VALUE

INNER = 0.5  # of the lesson
WIDEST = 10**9  # channels


def _ten_groups(blocks: tuple[int, ...]) -> Problem | None:
    if len(blocks) <= 10:
        return None
    return Problem(VALUE, "blocks", f"{len(blocks)} groups, each halving the pixels", "use at most 10", blocks)


def _group(stride_one: int, blocks: tuple[int, ...]) -> Problem | None:
    if stride_one < len(blocks):
        return None
    reason = f"there are {len(blocks)} groups, counted from 0"
    return Problem(BESIDE, "stride_one", reason, f"use at most {len(blocks) - 1}", stride_one)


def _inner(inner: float, convs_per_block: int) -> Problem | None:
    if convs_per_block > 1 or inner == INNER:
        return None
    hint = "leave it out, or use convs_per_block=2"
    return Problem(BESIDE, "inner", "a residual layer of one convolution has no inner channels", hint, inner)


def _no_layers(blocks: tuple[int, ...], inner: float, kernel_size: int, convs_per_block: int) -> Problem | None:
    given = {"inner": (inner, INNER), "kernel_size": (kernel_size, 3), "convs_per_block": (convs_per_block, 2)}
    without_effect = [name for name, (value, usual) in given.items() if value != usual]
    if any(blocks) or not without_effect:
        return None
    name = without_effect[0]
    return Problem(BESIDE, name, "blocks has no residual layer", "leave it out", given[name][0])


def _last_width(blocks: tuple[int, ...], first_width: int, width_multiplier: float) -> Problem | None:
    if first_width * width_multiplier ** len(blocks) <= WIDEST:
        return None
    reason = f"the last of {len(blocks)} groups would have more than {WIDEST} channels"
    return Problem(BESIDE, "width_multiplier", reason, "use a smaller one, or fewer groups", width_multiplier)


class Config(ResidualConfig):
    summary: ClassVar[str] = "Darknet: residual layers with a bottleneck or a widening, in groups"
    checks: ClassVar[tuple[Check, ...]] = (
        *ResidualConfig.checks,
        Check(("stride_one", "blocks"), _group),
        Check(("blocks",), _ten_groups),
        Check(("inner", "convs_per_block"), _inner),
        Check(("blocks", "inner", "kernel_size", "convs_per_block"), _no_layers),
        Check(("blocks", "first_width", "width_multiplier"), _last_width),
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
        "preactivation": {
            **TINY,
            "blocks": (1, 1),
            "first_width": 4,
            "kernel_size": 5,
            "convs_per_block": 3,
            "width_multiplier": 1.5,
            "layer_order": "norm_act_conv",
            "norm_momentum": 0.01,
            "leaky_slope": 0.0,
            "enlarge": 10,
        },
    }

    blocks: tuple[int, ...] = setting(
        (1, 2, 4, 6, 3), "residual layers of each group, as 1:2:4:6:3", at_least=0, at_most=1000, network=True
    )
    first_width: int = setting(
        32,
        "channels before the first group, which multiplies them by width_multiplier, as each does",
        at_least=1,
        at_most=100_000,
        network=True,
    )
    inner: float = setting(
        INNER,
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
        return [*problems, *self.lonely_norms(side)]
