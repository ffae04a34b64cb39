"""The importance of settings: how much of the metric's variance each explains alone, and how much chance would.

The metric is replaced by its rank among the trials, so that one diverged run does not dominate. Trials are grouped by
(nearly) the same value of a setting; the share of the variance between the groups is corrected for what as many groups
would explain by chance (omega squared). Interactions between settings are not detected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METHOD = (
    "Share of the variance of the metric's rank that lies between groups of trials with the same value of a setting "
    "(numbers: at most five groups of neighbouring values), corrected for the number of groups (omega squared). Each "
    "setting is examined alone; interactions are not detected. 19 of 20 shuffles of the results stay below the grey "
    "mark: a bar that ends left of it may be chance."
)
ENOUGH = 10  # finished trials per setting; below this, the page shows a warning
GROUPS, IN_GROUP = 5, 3  # maximum of groups of a numeric setting, and minimum of trials in each
SHUFFLES = 200


def importance(points: Sequence[Mapping[str, Any]], values: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each varied setting, the most important first: setting, share, chance, direction.

    `direction` is the rank correlation of a number with the metric; None for words, and if only one group of trials
    has a value.
    """
    ranks = _ranks(np.asarray(values, dtype=float))
    generator = np.random.default_rng(0)
    shuffled = np.stack([generator.permutation(ranks) for _ in range(SHUFFLES)]) if len(ranks) else np.zeros((0, 0))
    rows = []
    for name in dict.fromkeys(name for point in points for name in point):
        given = [point.get(name) for point in points]
        groups, numbers = _groups(given)
        count = int(groups.max()) + 1 if len(groups) else 0
        if count < 2 or len(ranks) <= count:
            continue
        direction = None
        if numbers is not None:
            order = _ranks(numbers)
            if order.std() and ranks.std():
                direction = round(float(np.corrcoef(order, ranks)[0, 1]), 3)
        chance = float(np.quantile(_shares(shuffled, groups, count), 0.95))
        share = float(_shares(ranks[None], groups, count)[0])
        rows.append(
            {
                "setting": name,
                "share": round(share, 4),
                "chance": round(chance, 4),
                "groups": count,
                "direction": direction,
            }
        )
    return sorted(rows, key=lambda row: (-row["share"], row["setting"]))


def _shares(ranks: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Omega squared of each row of `ranks` (rows, trials); at least 0."""
    sizes = np.bincount(groups, minlength=count)
    member = np.zeros((len(groups), count))
    member[np.arange(len(groups)), groups] = 1
    means = ranks @ member / sizes
    total = ((ranks - ranks.mean(1, keepdims=True)) ** 2).sum(1)
    between = (sizes * (means - ranks.mean(1, keepdims=True)) ** 2).sum(1)
    residual = (total - between) / (len(groups) - count)
    all_variance = total + residual
    share = np.divide(between - (count - 1) * residual, all_variance, out=np.zeros_like(total), where=all_variance > 0)
    return np.asarray(np.maximum(share, 0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean."""
    _, rank, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[rank])


def _groups(given: Sequence[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """The group of each trial, and the values if they are numbers."""
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    if not are_numbers:
        _, groups = np.unique([str(value) for value in given], return_inverse=True)
        return groups, None
    numbers = np.asarray(given, dtype=float)
    different = np.unique(numbers)
    if len(different) <= GROUPS and len(numbers) >= 2 * len(different):
        return np.searchsorted(different, numbers), numbers
    count = max(2, min(GROUPS, len(numbers) // IN_GROUP))
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, count + 1)[1:-1]))
    _, groups = np.unique(np.searchsorted(edges, numbers, side="right"), return_inverse=True)
    return groups, numbers
