"""The job that Ray Tune carries out for a search. Does not import Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.ranking.leaderboard import Search, TrialRecord
from cluster.searching.space import Space


class Dead(BaseException):
    """Ray has died. Not an Exception: for these Tune would clean up first and wait for answers that do not come."""


@dataclass
class Job:
    """What Tune needs to carry out a search."""

    search: Search
    space: Space
    next_trial: Callable[[], TrialRecord | None]  # its folder exists
    changed: Callable[[TrialRecord, bool], None]  # a trial has changed; whether it has ended
    install_handlers: Callable[[], None]  # of signals, after Tune has installed its own
    tick: Callable[[], None]  # called regularly; raises Dead if Ray has died
    stop_requested: Callable[[], bool]
    shared: Mapping[str, Any]  # see cluster.searching.trainable
    bundles: list[dict[str, float]]
    at_once: int
    steps: int  # of the longest trial
    every: int  # steps between reports
    max_restarts: int
    notify: Callable[[str], None]


def note(search: Search, record: TrialRecord, row: Mapping[str, Any]) -> None:
    """Update the record of a trial from a report."""
    metric = search.terms["metric"]
    record.step = int(row.get("step", record.step))
    if metric in row and row[metric] is not None:
        record.value, record.reason, record.code = float(row[metric]), "", ""
        if not math.isfinite(record.value):
            record.reason, record.code = f"{metric} is {record.value} at step {record.step}", "not-finite"
            record.value = None
        elif search.better(record.value, record.best):
            record.best, record.best_step = record.value, record.step
    if "result" in row:
        record.worry = row["result"].get("worry") or ""
