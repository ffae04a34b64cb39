"""Rules across settings: each is given the values of some, and says in a line what is wrong with them beside one
another, and what to say instead; None where nothing is."""

from __future__ import annotations

import math

from trainers.engine.settings import show_value


def divisors(number: int) -> list[int]:
    """Whole numbers that divide a number, rising."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def whole_microbatches(batch_size: int, microbatch_size: int) -> str | None:
    if batch_size % microbatch_size == 0:
        return None
    nearest = min(divisors(batch_size), key=lambda size: abs(size - microbatch_size))
    return f"microbatch_size={microbatch_size}: does not divide batch_size={batch_size}; say microbatch_size={nearest}"


def enough_microbatches(workers: int, batch_size: int, microbatch_size: int) -> str | None:
    if batch_size % microbatch_size or workers <= batch_size // microbatch_size:
        return None
    fitting = [size for size in divisors(batch_size) if batch_size // size >= workers]
    count = batch_size // microbatch_size
    advice = f"microbatch_size={max(fitting)}" if fitting else f"batch_size={workers * microbatch_size}"
    return (
        f"workers={workers}: more workers than the {count} micro-batches of a batch "
        f"(batch_size={batch_size} / microbatch_size={microbatch_size}); say {advice}"
    )


def least_first(workers: int, min_workers: int) -> str | None:
    if min_workers <= workers:
        return None
    return f"workers={min_workers}..{workers}: the lesser number comes first; say workers={workers}..{min_workers}"


def two_momenta(momenta: tuple[float, ...]) -> str | None:
    if len(momenta) == 2:
        return None
    return f"cycle_momentum={show_value(momenta)}: needs two, as in cycle_momentum=0.95:0.85"


def rising_shares(shares: tuple[float, ...]) -> str | None:
    if list(shares) == sorted(set(shares)):
        return None
    return f"decay_at={show_value(shares)}: must rise, as in decay_at=0.5:0.75"


def peak_before_tail(peak: float | str, tail: float) -> str | None:
    if isinstance(peak, str) or peak < 1 - tail:
        return None
    return f"cycle_peak={show_value(peak)}: must lie before the tail, below {show_value(1 - tail)}"


def evaluation_needed(target: str, schedule: str, every: int | str) -> str | None:
    if every != 0 or (target == "none" and schedule != "plateau"):
        return None
    asked = f"target={target}" if target != "none" else "schedule=plateau"
    return f"{asked}: needs evaluations; say evaluate_every=auto instead of 0"
