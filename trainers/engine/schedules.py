"""Schedules: pure functions of the run's step that say learning rate and momentum. No state, so resume is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Schedule = Callable[[int], Mapping[str, float]]  # step from 0 -> values of the optimizer's groups, as {"lr": 2e-4}


def constant(**values: float) -> Schedule:
    """The same values at every step: `constant(lr=2e-4)`."""
    return lambda step: values
