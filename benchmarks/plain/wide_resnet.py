"""WRN-16-4 in a plain loop."""

from __future__ import annotations

from functools import partial

from plain import _classifier
from plain._classifier import PICTURE_SIZE

SETTINGS = {**_classifier.SETTINGS, "depth": 16, "widen_factor": 4}
FASTER = {"float32": 1.25, "bfloat16": 2.3}  # what is asked of ours, in times
steps = partial(_classifier.steps, "wide_resnet")

__all__ = ["FASTER", "PICTURE_SIZE", "SETTINGS", "steps"]
