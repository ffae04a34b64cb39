"""What an evaluation found over the held-out samples, put together from its chunks in their order."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainers.engine.family import Metrics

SHOWN = 24  # samples with the highest scores that are kept to be looked at
Example = tuple[float, int, str]  # score, held-out sample, caption
Part = tuple[Metrics, list[Example]]  # what one chunk tells


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name (`eval_accuracy`), tables such as a confusion matrix, and the samples with the highest scores."""

    results: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Tensor] = field(default_factory=dict)
    shown: Sequence[Example] = ()


def together(parts: Sequence[Part]) -> Evaluation:
    """All chunks as one; sums are added in the order of the chunks, so that the workers change no bit of them."""
    results, tables = {}, {}
    for metric in parts[0][0] if parts else ():
        sums = [torch.as_tensor(metrics[metric][0], dtype=torch.float64).cpu() for metrics, _ in parts]
        count = sum(float(metrics[metric][1]) for metrics, _ in parts)
        total = functools.reduce(torch.add, sums)
        if total.dim():
            tables[metric] = total
        else:
            results[f"eval_{metric}"] = float(total) / count if count else math.nan
    return Evaluation(results, tables, first([row for _, shown in parts for row in shown]))


def highest(examples: tuple[Tensor, Sequence[str]] | None, indices: Sequence[int]) -> list[Example]:
    """The examples with the highest finite scores in a chunk."""
    if examples is None:
        return []
    scores, captions = examples
    rows = zip(scores.tolist(), indices, captions, strict=True)
    return first([row for row in rows if math.isfinite(row[0])])


def first(rows: Sequence[Example]) -> list[Example]:
    """The highest scores; among equals the sample that comes first."""
    return sorted(rows, key=lambda row: (-row[0], row[1]))[:SHOWN]
