"""The outcome of an evaluation over the held-out samples, combined from its chunks in order."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHOWN = 24  # samples with the highest scores that are kept for display
Totals = dict[str, tuple[Tensor | float, float]]  # (sum, count) of each quantity that an evaluation adds up
RankedSample = tuple[float, int, str]  # score, held-out sample, caption
Rows = Mapping[str, Tensor]  # collected for each sample, (samples, ...)
Part = tuple[Totals, list[RankedSample], Rows]  # the outcome of one chunk


def no_heartbeat() -> None:
    """The default heartbeat: does nothing."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation by name (`eval_accuracy`), and on rank 0 what they are computed from: sums, what was
    collected for each sample, and the samples with the highest scores."""

    results: Mapping[str, float] = field(default_factory=dict)
    totals: Totals = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    shown: Sequence[RankedSample] = ()
    heartbeat: Callable[[], None] = no_heartbeat  # call it after each piece of long work in `compute_metrics`


def combine(parts: Sequence[Part], heartbeat: Callable[[], None] = no_heartbeat) -> Evaluation:
    """All chunks combined. Sums are added in chunk order, so that the number of workers changes no bit of them."""
    totals: Totals = {}
    for name in parts[0][0] if parts else ():
        sums = [torch.as_tensor(chunk[name][0], dtype=torch.float64).cpu() for chunk, *_ in parts]
        totals[name] = (functools.reduce(torch.add, sums), sum(float(chunk[name][1]) for chunk, *_ in parts))
    rows = {name: torch.cat([chunk[name] for *_, chunk in parts]) for name in (parts[0][2] if parts else ())}
    return Evaluation({}, totals, rows, sort_ranked([row for _, shown, _ in parts for row in shown]), heartbeat)


def top_ranked(scored: tuple[Tensor, Sequence[str]] | None, indices: Sequence[int]) -> list[RankedSample]:
    """The samples with the highest finite scores in a chunk."""
    if scored is None:
        return []
    scores, captions = scored
    rows = zip(scores.tolist(), indices, captions, strict=True)
    return sort_ranked([row for row in rows if math.isfinite(row[0])])


def sort_ranked(rows: Sequence[RankedSample]) -> list[RankedSample]:
    """The highest scores; ties go to the first sample."""
    return sorted(rows, key=lambda row: (-row[0], row[1]))[:SHOWN]
