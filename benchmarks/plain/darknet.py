"""Darknet [1, 2, 4, 6, 3] in a plain loop."""

from __future__ import annotations

from functools import partial

from plain import _classifier
from plain._classifier import PICTURE_SIZE

SETTINGS = {**_classifier.SETTINGS, "blocks": (1, 2, 4, 6, 3)}
FASTER = {"float32": 1.0, "bfloat16": 1.7}  # what is asked of ours, in times
steps = partial(_classifier.steps, "darknet")

__all__ = ["FASTER", "PICTURE_SIZE", "SETTINGS", "steps"]
