"""The record of a search: search.json, which is authoritative, and leaderboard.csv, a table of it.

Both are up to date after every report. A search can be resumed from them and the trials' folders alone, wherever they
are: they hold no paths except those of data and custom families. Imports neither torch nor Ray.
"""

from __future__ import annotations

import contextlib
import csv
import enum
import io
import json
import os
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from trainers.base import old_names
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError, did_you_mean
from trainers.base.paths import TRIALS
from trainers.base.problems import Problem, show_value
from trainers.run_folders import bucket, creation, run_locks
from trainers.run_folders.run_folder import SEARCH, RunFolder, all_runs, folders_in
from trainers.storage import atomic_files, checkpoint

FORMAT = 1
WAITING, RUNNING, FINISHED, PRUNED, FAILED, INTERRUPTED = (
    "waiting",
    "running",
    "finished",
    "stopped early",
    "failed",
    "interrupted",
)
OPEN = (WAITING, RUNNING, INTERRUPTED)  # states from which a trial continues when the search is resumed

NO_METRIC = "no-metric"  # problem code: a trial does not report the metric, so no other trial will
BEST, TIED, WORSE = "best", "tied", "worse"  # of points; tied: the difference from the best may be chance
POPULATION = ("pbt", "pb2")  # schedulers whose trials are all alive at once and clone each other


class StopReason(enum.IntEnum):
    """Why no more trials are started. Of several reasons, the first determines how the search ends."""

    DISK_FULL = 1
    NO_METRIC = 2  # no trial can have a value
    REQUESTED = 3
    TIME_BUDGET = 4


@dataclass
class TrialRecord:
    """One trial: its settings and its outcome."""

    number: int
    settings: dict[str, Any]  # the searched ones, and its seed if there are several
    state: str = WAITING
    step: int = 0
    steps: int = 0
    value: float | None = None  # of the metric, at the last report; None if it was not finite
    best: float | None = None  # of all reports
    best_step: int = 0
    seconds: float = 0.0
    reason: str = ""  # why it failed, was interrupted, or has no value
    code: str = ""  # of the problem
    clones: list[dict[str, Any]] = field(default_factory=list)  # which trials' weights it took over, and when
    worry: str = ""  # the warning of the GAN watch
    repeats: int | None = None  # `--confirm`: the first trial of the point that this one repeats with a fresh seed

    @property
    def name(self) -> str:
        return f"{self.number:04d}"

    @property
    def fresh(self) -> bool:
        """Whether its seed is one that the search itself had not used."""
        return self.repeats is not None


class Confirmation(TypedDict):
    """The arguments of `--confirm`, and the points that it chose."""

    points: int  # to repeat
    most_seeds: int  # fresh ones of each point
    chosen: list[int]  # the first trial of each point; empty until the search itself has ended


class Terms(TypedDict):
    """The arguments of a search, and its outcome besides its trials: each is an entry of search.json."""

    family: str
    metric: str
    mode: str  # max or min
    scheduler: str
    algorithm: str
    seed: int
    points: int
    seeds: list[int]  # of each point; empty: the one that is fixed
    space: dict[str, str]  # domains, as in a command
    source: str  # the file of the space
    fixed: dict[str, str]  # settings, as in a command
    families: list[str]
    seconds: float
    max_concurrent: int | None
    trials_per_gpu: int
    keep_best: int | None
    recipe: NotRequired[dict[str, Any]]  # its name, and the settings of all trials that differ from it
    restarts: NotRequired[list[dict[str, str]]]  # of Ray
    final: NotRequired[dict[str, Any]]  # the run of the best point
    confirmation: NotRequired[Confirmation]
    comparison: NotRequired[dict[str, Any]]  # of the points with the best one: confirmation.comparison_of


class Point(NamedTuple):
    """Trials that differ only in their seed."""

    trials: list[TrialRecord]  # of the search itself
    fresh: list[TrialRecord]  # of `--confirm`

    @property
    def number(self) -> int:
        return self.trials[0].number

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.trials[0].settings.items() if name != "seed"}

    @property
    def judged(self) -> list[TrialRecord]:
        """The trials by which the point is ranked: the fresh ones, if there are any with a value."""
        return self.fresh if _values(self.fresh) else self.trials

    @property
    def values(self) -> list[float]:
        return _values(self.judged)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation; None of fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def first(self) -> float | None:
        """Of a point with fresh trials, the mean of the search itself, which chose it for being good: too good, on
        average."""
        values = _values(self.trials) if self.judged is self.fresh else []
        return statistics.fmean(values) if values else None


def _values(trials: Sequence[TrialRecord]) -> list[float]:
    return [trial.value for trial in trials if trial.value is not None and trial.state != FAILED]


@dataclass
class Search:
    """A search: its arguments, and its trials in the order in which they were proposed."""

    path: Path
    terms: Terms
    trials: list[TrialRecord] = field(default_factory=list)

    @property
    def name(self) -> str:
        return creation.final_name(self.path)

    @property
    def sign(self) -> int:
        """1 if a higher metric is better, else -1."""
        return 1 if self.terms["mode"] == "max" else -1

    @property
    def requested(self) -> int:
        """The requested number of trials: the points, each with every seed."""
        return int(self.terms["points"]) * max(1, len(self.terms["seeds"]))

    @property
    def confirming(self) -> bool:
        """Whether the search itself has ended, and its best points are being confirmed."""
        return bool(self.terms.get("confirmation", {}).get("chosen"))

    def folder(self, trial: TrialRecord) -> RunFolder:
        return RunFolder(self.path / TRIALS / trial.name)

    def ranked(self) -> list[TrialRecord]:
        """Trials that have a value, the best first; those of confirmed points before all others, point by point."""
        points = self.points() if self.confirming else []
        places = {trial.number: place for place, point in enumerate(points) for trial in point.fresh}

        def order(trial: TrialRecord) -> tuple[int, float, int]:
            return places.get(trial.number, len(points)), -self.sign * (trial.value or 0.0), trial.number

        return sorted((trial for trial in self.trials if trial.value is not None), key=order)

    def in_order(self) -> list[TrialRecord]:
        """All trials: the best first, those without a value last, in the order of their numbers."""
        return [*self.ranked(), *(trial for trial in self.trials if trial.value is None)]

    def better(self, one: float, other: float | None) -> bool:
        return other is None or self.sign * one > self.sign * other

    def points(self) -> list[Point]:
        """The points, the best mean first: those with fresh trials before all others, those without a value last."""
        groups: dict[str, Point] = {}
        for trial in self.trials:
            point = {name: value for name, value in trial.settings.items() if name != "seed"}
            alone = "" if "seed" in trial.settings else trial.name  # trials of a population can become equal
            if not trial.fresh:
                groups.setdefault(alone + json.dumps(point, sort_keys=True), Point([], [])).trials.append(trial)
        by_number = {point.number: point for point in groups.values()}
        for trial in self.trials:
            if trial.repeats is not None:
                by_number[trial.repeats].fresh.append(trial)

        def order(point: Point) -> tuple[bool, int, float, int]:
            # Of confirmed points, those with more fresh seeds remained tied with the best for longer.
            fresh = len(point.fresh) if point.judged is point.fresh else 0
            return point.mean is None, -fresh, -self.sign * (point.mean or 0.0), point.number

        return sorted(groups.values(), key=order)

    def write(self, lasting: bool = False) -> None:
        """Write both files; `lasting`: durably, so that they survive a power loss."""
        table = as_csv(self.leaderboard())
        head = json.dumps({"format": FORMAT, **self.terms}, indent=1)
        body = ",\n".join(f"  {json.dumps(_stored(trial))}" for trial in self.trials)  # one line each, and fast
        record = f'{head[:-2]},\n "trials": [\n{body}\n ]\n}}\n'
        with checkpoint.writing_checkpoint(self.path):
            for file, text in ((SEARCH, record), ("leaderboard.csv", table)):
                atomic_files.write(self.path / file, text, lasting)

    def leaderboard(self) -> list[dict[str, Any]]:
        """A row for each trial, the best first, those without a value last, in the order of their numbers."""
        states = self.vs_best()
        return [
            {
                "trial": f"{self.name}/{trial.name}",
                "state": trial.state,
                self.terms["metric"]: trial.value,
                "step": trial.step,
                "steps": trial.steps,
                "best": trial.best,
                "best_step": trial.best_step,
                "seconds": round(trial.seconds, 1),
                **{k: show_value(v) for k, v in trial.settings.items()},
                "vs_best": states.get(trial.number, ""),
                "repeats": "" if trial.repeats is None else f"{trial.repeats:04d}",
                "reason": trial.reason,
                "worry": trial.worry,
            }
            for trial in self.in_order()
        ]

    def vs_best(self) -> dict[int, str]:
        """Whether the point of each trial is the `best`, `tied` with it (the difference may be chance) or `worse`.

        By the trials' numbers; without those that the comparison leaves out. Of confirmed points, only fresh trials
        count.
        """
        compared = self.terms.get("comparison") or {}
        named = {compared.get(BEST): BEST}
        named |= {name: state for state in (TIED, WORSE) for name in compared.get(state, ())}
        found: dict[int, str] = {}
        for point in self.points():
            if state := named.get(point.trials[0].name):
                found |= {trial.number: state for trial in (point.fresh if compared["confirmed"] else point.trials)}
        return found

    def command_of(self, trial: TrialRecord) -> str:
        """The command that repeats a trial; it cannot express what the trial took over from others."""
        fixed = {**self.terms["fixed"], **trial.settings}
        if self.terms.get("scheduler", "fifo") != "fifo" and "evaluate_every" not in fixed:
            with contextlib.suppress(TroupeError):  # chosen for the scheduler, if the trial has started
                fixed["evaluate_every"] = self.folder(trial).read_settings()["settings"]["evaluate_every"]
        arguments = [shlex.quote(f"{name}={show_value(value)}") for name, value in fixed.items()]
        return " ".join(["troupe train", self.terms["family"], *arguments])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the search: only one driver works on it."""
        with run_locks.hold(self.path, self.name, "search", patience=10):
            yield

    @property
    def working(self) -> bool:
        """Whether a driver is working on it."""
        return run_locks.is_held(self.path)


def _stored(trial: TrialRecord) -> dict[str, Any]:
    """An entry of search.json; one that older versions can read, unless it is of `--confirm`."""
    entry = dict(vars(trial))
    if trial.repeats is None:
        del entry["repeats"]
    return entry


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a column for each key of any row."""
    table = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(table, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def read_search(path: Path) -> Search:
    """The search in a folder. Raises TroupeError (exit code 4) if its file is damaged."""
    try:
        stored = json.loads((path / SEARCH).read_text(encoding="utf-8"))
        if stored.pop("format") > FORMAT:
            problem = Problem("newer", str(path), "written by a newer troupe", "install that version")
            raise TroupeError(problem, ENVIRONMENT)
        trials = [TrialRecord(**trial) for trial in stored.pop("trials")]
        for trial in trials:
            numbers = (trial.value, trial.best, trial.seconds, trial.number, trial.step, trial.steps)
            if not all(isinstance(one, (int, float, type(None))) for one in numbers):
                raise TypeError(f"trial {trial.number}: a value is not a number")
        if not isinstance(stored["metric"], str) or stored["mode"] not in ("max", "min"):
            raise ValueError("no metric")
        for trial in trials:
            trial.settings = old_names.settings(trial.settings, stored.get("fixed", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"damaged ({type(error).__name__}: {error})"
        problem = Problem("damaged", str(path / SEARCH), reason, "restore it from a copy")
        raise TroupeError(problem, CONFLICT) from None
    named: Any = old_names.current_search(stored)
    return Search(path, named, trials)


def all_searches(runs: Path) -> list[Path]:
    """The folders of searches, by name; 2 before 10."""
    return [path for path in folders_in(runs) if os.path.exists(path / SEARCH)]


def find_search(runs: Path, name: str) -> Search:
    """The search of this name, or at this path. Raises TroupeError (exit code 2) if there is none."""
    for path in (runs / name, Path(name)):
        if os.path.exists(path / SEARCH):
            return read_search(path.resolve())
    known = [path.name for path in all_searches(runs)]
    code, what = "unknown-run", "no such search"
    if os.path.exists(runs / name / "settings.json"):
        code, what = "not-a-search", "is a run, not a search"
    raise TroupeError(Problem(code, name, f"{what} in {bucket.display_name(runs)}", did_you_mean(name, known)), USAGE)


def is_search(runs: Path, name: str) -> bool:
    return any(os.path.exists(path / SEARCH) for path in (runs / name, Path(name)))


def trials_of(runs: Path, name: str) -> list[RunFolder] | None:
    """The folders of a search's trials; None if the name is not that of a search."""
    inside = next((path for path in (runs / name, Path(name)) if os.path.exists(path / SEARCH)), None)
    return None if inside is None else all_runs((inside / TRIALS).resolve())


def search_folder(runs: Path, name: str) -> RunFolder | None:
    """The folder of a search in `runs` itself, to be removed; None if the name is not that of a search.

    Raises TroupeError (exit code 4) if its search.json does not prove it.
    """
    path = runs / name
    if path.parent.resolve() != runs.resolve() or path.is_symlink() or not os.path.exists(path / SEARCH):
        return None
    read_search(path)
    return RunFolder(path.resolve())
