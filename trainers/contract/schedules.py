"""Schedules: pure functions from the step to learning rate and momentum. They have no state, so resume is exact.

Does not import torch: the driver plots them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from trainers.settings.config import Config

Schedule = Callable[[int, Sequence[float]], Mapping[str, float]]
"""(step from 0, main metric of each evaluation so far) -> values for the optimizer's groups, as {"lr": 2e-4}.

"lr" is multiplied by a group's own "lr_scale" if it has one; "momentum" is beta1 in Adam.
"""


def constant(**values: float) -> Schedule:
    """The same values at every step: `constant(lr=2e-4)`."""
    return lambda step, history: values


def of(config: Config, learning_rate: float) -> Schedule:
    """The schedule from the settings, with this peak learning rate; one_cycle changes the momentum too."""
    if config.schedule == "constant" and not config.warmup:
        return constant(lr=learning_rate)

    def values(step: int, history: Sequence[float]) -> Mapping[str, float]:
        done = step / max(config.steps, 1)
        rate = learning_rate * rate_factor(config, done, history)
        if config.warmup > 0:
            rate *= min(1.0, (step + 1) / (config.warmup * config.steps))
        if config.schedule != "one_cycle" or not config.schedules_momentum:
            return {"lr": rate}
        start, peak = config.cycle_momentum
        return {
            "lr": rate,
            "momentum": interpolate([(0, start), (peak_position(config), peak), (1 - config.cycle_tail, start)], done),
        }

    return values


def rate_factor(config: Config, done: float, history: Sequence[float] = ()) -> float:
    """The multiplier of the peak learning rate at this fraction of the run."""
    if config.schedule == "one_cycle":  # Smith 2018, section 4: a triangle and a final descent
        start = 1 / config.cycle_ratio
        return interpolate(
            [(0, start), (peak_position(config), 1), (1 - config.cycle_tail, start), (1, start / 100)], done
        )
    if config.schedule == "cosine":  # Loshchilov 2017, equation 5, without restarts
        return (1 + math.cos(math.pi * done)) / 2
    if config.schedule == "step":
        return config.decay_factor ** sum(done >= share for share in config.decay_at)
    if config.schedule == "linear":
        return interpolate([(config.decay_after, 1), (1, 0)], done)
    if config.schedule == "plateau":
        return config.decay_factor ** plateau_reductions(
            history, config.patience, next(iter(config.metrics.values()), "max")
        )
    return 1.0


def peak_position(config: Config) -> float:
    """The fraction of the run at which one_cycle has its peak."""
    return (1 - config.cycle_tail) / 2 if config.cycle_peak == "auto" else config.cycle_peak


def plateau_reductions(history: Sequence[float], patience: int, mode: str) -> int:
    """How many times `patience` consecutive evaluations were no better than the best before them."""
    count, waited, best = 0, 0, -math.inf
    for value in history:
        value = value if mode == "max" else -value
        waited = 0 if value > best else waited + 1
        best = max(best, value)
        if waited == patience:
            count, waited = count + 1, 0
    return count


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    """Linear interpolation between points (fraction of the run, value), constant outside the first and the last."""
    if at <= points[0][0]:
        return points[0][1]
    for (first, low), (last, high) in pairwise(points):
        if at <= last:
            return low + (high - low) * (at - first) / (last - first) if last > first else high
    return points[-1][1]
