"""Which point a search tries next: from a fixed list, or proposed by Optuna from the results so far."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any

from cluster.ranking.leaderboard import FAILED, FINISHED, OPEN, Search, TrialRecord
from cluster.searching.space import Choice, Point, Space
from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem, show_value

DRAWS = 1000  # of a new point, before the space counts as exhausted


def sampler_of(search: Search, space: Space) -> RecordedPoints | Optuna:
    """The proposals of a search's algorithm. A resumed search proposes its remaining trials first."""
    chooses = search.terms["algorithm"] == "optuna" and not search.confirming
    return Optuna(search, space) if chooses else RecordedPoints(search)


def listed(space: Space, algorithm: str, points: int, seed: int) -> list[Point]:
    """All points of a search that knows them before it starts: the grid, or different ones drawn at random."""
    if algorithm == "grid":
        return list(space.grid())
    chance, found = random.Random(seed), dict[str, Point]()
    for _ in range(DRAWS * points):
        if len(found) == points:
            break
        point = space.draw(chance)
        found.setdefault(" ".join(f"{name}={show_value(value)}" for name, value in point.items()), point)
    return list(found.values())


def add(search: Search, space: Space, point: Point) -> list[TrialRecord]:
    """The trials of one point, one for each seed."""
    variants = [{**point, "seed": seed} for seed in space.seeds] or [point]
    made = [TrialRecord(len(search.trials) + 1 + index, variant) for index, variant in enumerate(variants)]
    search.trials += made
    return made


def fill(search: Search, space: Space) -> None:
    """Add all trials of a search that knows them before it starts."""
    if search.terms["algorithm"] != "optuna":
        for point in listed(space, search.terms["algorithm"], search.terms["points"], search.terms["seed"]):
            add(search, space, point)


class RecordedPoints:
    """The trials that a search's record holds, in their order."""

    def __init__(self, search: Search) -> None:
        self.remaining: Iterator[TrialRecord] = iter([trial for trial in search.trials if trial.state in OPEN])

    def next(self) -> TrialRecord | None:
        """The next trial to carry out; None if there are no more."""
        return next(self.remaining, None)

    def ended(self, trial: TrialRecord) -> None:
        """A trial has ended, successfully or not."""


class Optuna:
    """Optuna's sampler (TPE). A trial that was stopped early counts as pruned, and one that failed as failed."""

    def __init__(self, search: Search, space: Space) -> None:
        try:
            import optuna
        except ImportError:
            hint = "pip install 'troupe[optuna]'"
            problem = Problem("not-installed", "--algorithm", "requires Optuna", hint, "optuna")
            raise TroupeError(problem, ENVIRONMENT) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna, self.search, self.space = optuna, search, space
        self.domains = {name: self._domain(domain) for name, domain in space.domains.items()}
        with warnings.catch_warnings(action="ignore"):
            sampler = optuna.samplers.TPESampler(
                seed=search.terms["seed"] + len(search.trials), multivariate=True, constant_liar=True
            )
        direction = optuna.study.StudyDirection.MAXIMIZE if search.sign > 0 else optuna.study.StudyDirection.MINIMIZE
        self.study = optuna.create_study(direction=direction, sampler=sampler)
        self.proposed: dict[int, Any] = {}  # Optuna's trials by the number of our first trial of the point
        self.remaining = [trial for trial in search.trials if trial.state in OPEN]
        for point in search.points():
            if all(trial.state not in OPEN for trial in point.trials):
                self._tell_result(point.trials)

    def next(self) -> TrialRecord | None:
        if self.remaining:
            return self.remaining.pop(0)
        if len(self.search.points()) >= self.search.terms["points"]:
            return None
        proposal = self.study.ask(self.domains)
        point = {name: self._value(domain, proposal.params[name]) for name, domain in self.space.domains.items()}
        made = add(self.search, self.space, point)
        self.proposed[made[0].number] = proposal
        self.remaining += made[1:]
        return made[0]

    def ended(self, trial: TrialRecord) -> None:
        group = next(point.trials for point in self.search.points() if trial in point.trials)
        if all(one.state not in OPEN for one in group):
            self._tell_result(group)

    def _tell_result(self, group: list[TrialRecord]) -> None:
        """Tell Optuna of a point whose trials have all ended: the mean of their values."""
        state = self.optuna.trial.TrialState
        values = [trial.value for trial in group if trial.value is not None]
        value = sum(values) / len(values) if values else None
        if value is None or value != value or any(trial.state == FAILED for trial in group):
            outcome, value = state.FAIL, None
        else:
            outcome = state.COMPLETE if all(trial.state == FINISHED for trial in group) else state.PRUNED
        reports = {min(trial.step for trial in group): value} if value is not None and outcome == state.PRUNED else {}
        proposal = self.proposed.pop(group[0].number, None)
        if proposal is not None:
            for step, one in reports.items():
                proposal.report(one, step)
            self.study.tell(proposal, None if outcome == state.PRUNED else value, state=outcome)
            return
        params = {name: self._param(domain, group[0].settings[name]) for name, domain in self.space.domains.items()}
        with warnings.catch_warnings(action="ignore"):
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    state=outcome, params=params, distributions=self.domains, value=value, intermediate_values=reports
                )
            )

    def _domain(self, domain: Any) -> Any:
        """A domain as an Optuna distribution; choices as texts, since Optuna does not support lists."""
        known = self.optuna.distributions
        if isinstance(domain, Choice):
            return known.CategoricalDistribution(list(map(show_value, domain.values)))
        kind = known.IntDistribution if domain.integer else known.FloatDistribution
        low, high = (int(domain.low), int(domain.high)) if domain.integer else (domain.low, domain.high)
        return kind(low, high, log=domain.log)

    @staticmethod
    def _param(domain: Any, value: Any) -> Any:
        return show_value(value) if isinstance(domain, Choice) else value

    @staticmethod
    def _value(domain: Any, param: Any) -> Any:
        if isinstance(domain, Choice):
            return next(value for value in domain.values if show_value(value) == param)
        return domain.clipped(param)
