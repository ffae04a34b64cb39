"""Which points of a search are significantly worse than the best one, by the spread over their seeds.

The test is Hsu's multiple comparisons with the best: "Constrained simultaneous confidence intervals for multiple
comparisons with the best", Annals of Statistics 12 (1984), with one-sided critical values of Dunnett (1955, JASA 50).
It assumes that the values of a point over its seeds are normally distributed, with the same standard deviation at all
points. For a metric of which less is better and all values are positive (distances, losses), it takes their logarithms,
since the spread of such a metric grows with its size. Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

TEST = "Hsu's multiple comparisons with the best"
LEVEL = 0.05  # probability of a difference between points that are equal
MOST_SEEDS = 1000  # the largest number of seeds that is suggested

Values = Sequence[float]  # of a point, one for each seed


class Comparison(NamedTuple):
    """What the seeds of some points say about the best of them."""

    close: tuple[int, ...]  # points not significantly worse than the best, without itself
    deviation: float  # of a point's values, pooled over all points; of their logarithms if `logs`
    logs: bool
    gap: float  # from the mean of the best point to that of the next
    points: int
    fewest: int  # values of a point
    level: float


def compare_with_best(points: Sequence[Values], best: int, sign: int, level: float = LEVEL) -> Comparison | None:
    """Compare points with the one at index `best`, that of the best mean; `sign` is 1 if a higher value is better,
    else -1. Returns None if there is one point, or if the spread is unknown, as no point has two different values.
    """
    values, logs = _scaled(points, sign)
    freedom = sum(len(one) - 1 for one in values)
    if freedom < 1 or len(values) < 2:
        return None
    deviation = math.sqrt(sum((len(one) - 1) * statistics.variance(one) for one in values if len(one) > 1) / freedom)
    if deviation == 0:
        return None
    means = [statistics.fmean(one) for one in values]
    factor = _bound(len(values), freedom, level) * deviation

    def close(one: int) -> bool:
        least = factor * math.sqrt(1 / len(values[best]) + 1 / len(values[one]))
        return not sign * (means[best] - means[one]) > least

    others = [one for one in range(len(values)) if one != best]
    found = tuple(one for one in others if close(one))
    gap = min(sign * (means[best] - means[one]) for one in others)
    return Comparison(found, deviation, logs, gap, len(values), min(map(len, values)), level)


def _scaled(points: Sequence[Values], sign: int) -> tuple[list[list[float]], bool]:
    """The values, or their logarithms, as the test assumes."""
    if sign > 0 or not all(value > 0 for one in points for value in one):
        return [list(one) for one in points], False
    return [[math.log(value) for value in one] for one in points], True


def seeds_needed(found: Comparison) -> int | None:
    """The least number of seeds of each point with which a gap of this width is significant.

    Returns None if the difference is significant already, or if it takes more than MOST_SEEDS.
    """

    def told(count: int) -> bool:
        bound = _bound(found.points, found.points * (count - 1), found.level)
        return found.gap > bound * found.deviation * math.sqrt(2 / count)

    low, high = max(2, found.fewest), MOST_SEEDS
    if not found.close or found.gap <= 0 or not told(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if told(middle) else (middle + 1, high)
    return high


def _bound(points: int, freedom: int, level: float) -> float:
    """The critical value for the best of so many points. Of two, either can be the best by chance: half the level."""
    return critical_value(points - 1, freedom, level if points > 2 else level / 2)


@cache
def critical_value(others: int, freedom: int, level: float = LEVEL) -> float:
    """The one-sided critical value of Dunnett (1955) for comparing `others` means with one, all of equally many values.

    It is the bound that the largest of `others` differences, over their standard error, exceeds with probability
    `level`, if all means are equal. Their correlation is 1/2; `freedom` are the degrees of freedom of the pooled
    variance.
    """
    freedom = _three_digits(freedom)
    low, high = 0.0, 1.0
    while _probability(high, others, freedom) < 1 - level:
        low, high = high, 2 * high
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, others, freedom) < 1 - level else (low, middle)
    return high


def _three_digits(freedom: int) -> int:
    """Rounded down, so that few values are computed for a search of many trials."""
    return int(float(f"{freedom:.2e}")) if freedom > 1000 else freedom


def _probability(bound: float, others: int, freedom: int) -> float:
    """Probability that no difference exceeds the bound: a double integral over the mean compared with, and over the
    ratio of the estimated to the true standard deviation."""
    import numpy as np

    z, density_of_z = _normal_grid()
    ratio, density_of_ratio = _ratio_grid(freedom)
    below = np.interp(z[None, :] + math.sqrt(2) * bound * ratio[:, None], *_normal_table(), left=0.0, right=1.0)
    return float(density_of_ratio @ (below**others @ density_of_z))


@cache
def _normal_table() -> tuple[Any, Any]:
    """Numbers, and the standard normal distribution at them."""
    import numpy as np

    numbers = np.linspace(-9, 9, 18_001)
    return numbers, np.array([0.5 * math.erfc(-number / math.sqrt(2)) for number in numbers])


@cache
def _normal_grid() -> tuple[Any, Any]:
    """Nodes of an integral over the standard normal distribution, and their weights (Gauss and Hermite)."""
    import numpy as np

    z, weights = np.polynomial.hermite_e.hermegauss(48)
    return z, weights / weights.sum()


@cache
def _ratio_grid(freedom: int) -> tuple[Any, Any]:
    """Nodes of an integral over sqrt(chi2 / freedom), and their weights."""
    import numpy as np

    spread = 8 / math.sqrt(2 * freedom)
    least = max(0.0, 1 - spread)
    edges = least + (1 + spread - least) * np.linspace(0, 1, 401) ** 2  # close together where the bound is far out
    ratio = (edges[1:] + edges[:-1]) / 2
    logs = (freedom - 1) * np.log(ratio) - freedom * (ratio**2 - 1) / 2
    weights = np.exp(logs - logs.max()) * np.diff(edges)
    return ratio, weights / weights.sum()
