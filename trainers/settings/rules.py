"""Rules across settings: each gets the values of some settings and returns their conflict with a hint, or None."""

from __future__ import annotations

import math

from trainers.base.problems import Problem, show_value

VALUE, BESIDE = "bad-value", "settings-conflict"  # codes: of one setting, and of conflicting settings


def divisors(number: int) -> list[int]:
    """The divisors of a number, ascending."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def whole_microbatches(batch_size: int, microbatch_size: int) -> Problem | None:
    if batch_size % microbatch_size == 0:
        return None
    nearest = min(divisors(batch_size), key=lambda size: abs(size - microbatch_size))
    reason, hint = f"does not divide batch_size={batch_size}", f"use microbatch_size={nearest}"
    return Problem(BESIDE, "microbatch_size", reason, hint, microbatch_size)


def enough_microbatches(workers: int, batch_size: int, microbatch_size: int) -> Problem | None:
    if batch_size % microbatch_size or workers <= batch_size // microbatch_size:
        return None
    fitting = [size for size in divisors(batch_size) if batch_size // size >= workers]
    count = batch_size // microbatch_size
    advice = f"microbatch_size={max(fitting)}" if fitting else f"batch_size={workers * microbatch_size}"
    sizes = f"batch_size={batch_size} / microbatch_size={microbatch_size}"
    reason = f"more workers than the {count} micro-batches of a batch ({sizes})"
    return Problem(BESIDE, "workers", reason, f"use {advice}", workers)


def least_first(workers: int, min_workers: int) -> Problem | None:
    if min_workers <= workers:
        return None
    hint = f"use workers={workers}..{min_workers}"
    return Problem(BESIDE, "workers", "the smaller number comes first", hint, f"{min_workers}..{workers}")


def two_momenta(momenta: tuple[float, ...]) -> Problem | None:
    if len(momenta) == 2:
        return None
    return Problem(VALUE, "cycle_momentum", "needs two values, as in cycle_momentum=0.95:0.85", value=momenta)


def rising_shares(shares: tuple[float, ...]) -> Problem | None:
    if list(shares) == sorted(set(shares)):
        return None
    return Problem(VALUE, "decay_at", "must increase, as in decay_at=0.5:0.75", value=shares)


def peak_before_tail(peak: float | str, tail: float) -> Problem | None:
    if isinstance(peak, str) or peak < 1 - tail:
        return None
    return Problem(BESIDE, "cycle_peak", f"must be before the tail, below {show_value(1 - tail)}", value=peak)


def evaluation_needed(target: str, schedule: str, every: int | str) -> Problem | None:
    if every != 0 or (target == "none" and schedule != "plateau"):
        return None
    setting, value = ("target", target) if target != "none" else ("schedule", "plateau")
    return Problem(BESIDE, setting, "needs evaluations", "use evaluate_every=auto instead of 0", value)
