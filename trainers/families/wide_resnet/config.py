"""Settings of Wide-ResNet: Zagoruyko and Komodakis, "Wide Residual Networks", 2016 (arXiv 1605.07146)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.base.problems import Problem
from trainers.families.classification.settings import TINY, ClassificationConfig
from trainers.settings.fields import Check, setting
from trainers.settings.rules import VALUE


def _depth(depth: int) -> Problem | None:
    if (depth - 4) % 6 == 0:
        return None
    near = max(10, depth - (depth - 4) % 6)
    reason = "must be 6n + 4, for n blocks in each of three groups"
    return Problem(VALUE, "depth", reason, f"use depth={near} or depth={near + 6}", depth)


class Config(ClassificationConfig):
    summary: ClassVar[str] = "Wide-ResNet, WRN-depth-widen_factor"
    checks: ClassVar[tuple[Check, ...]] = (*ClassificationConfig.checks, Check(("depth",), _depth))
    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 200.0,
        "schedule": "step",
    }  # section 3, with steps at 60, 120, 160 of 200
    tiny: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {**TINY, "depth": 10, "widen_factor": 1, "dropout": 0.3, "crop_padding": 1, "label_smoothing": 0.1}
    }

    depth: int = setting(28, "convolutions in a row, 6n + 4", at_least=10, at_most=10_000, network=True)
    widen_factor: int = setting(10, "times the width of the thin network", at_least=1, at_most=10_000, network=True)
    dropout: float = setting(
        0.0, "between the convolutions of a block", at_least=0, below=1, source="Zagoruyko 2016, section 2.4"
    )
