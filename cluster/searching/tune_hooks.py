"""What Ray Tune calls during a search: source of trials, callback, stopper and schedulers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining
from ray.tune.search import Searcher

from cluster.backend.nodes import last_line
from cluster.ranking.leaderboard import FAILED, FINISHED, INTERRUPTED, POPULATION, PRUNED, RUNNING, TrialRecord
from cluster.searching.space import Range
from cluster.searching.trainable import SHARED
from cluster.searching.tune_job import Job, note
from trainers.base.problems import Problem, sentence

REDUCTION = 3  # asha: one of this many trials continues at each rung (Li et al. 2020, section 3)
RUNGS = 2  # at which trials are compared before they end
POPULATION_MOVES = 10  # pbt: how often in a run a trial can be replaced by a clone
ENDS = {"finished": FINISHED, "failed": FAILED, "stopped": INTERRUPTED}

Records = dict[str, TrialRecord]  # by Tune's trial IDs


class Unwritten:
    """Objects that Tune need not write into its snapshots, which are never used."""

    def __reduce__(self) -> Any:
        return dict, ()

    def save(self, path: str) -> None:
        pass


class Proposals(Unwritten, Searcher):
    """Passes the search's trials to Tune, one by one."""

    def __init__(self, job: Job, records: Records) -> None:
        super().__init__()
        self.job, self.records = job, records

    def suggest(self, trial_id: str) -> Any:
        record = None if self.job.stop_requested() else self.job.next_trial()
        if record is None:
            return Searcher.FINISHED
        self.records[trial_id] = record
        return {**record.settings, SHARED: dict(self.job.shared)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass  # handled by the watcher below, which gets more information


class Watcher(Unwritten, tune.Callback):
    """Keeps the record of each trial up to date."""

    def __init__(self, job: Job, records: Records) -> None:
        self.job, self.records = job, records
        self.not_made = set[str]()  # lines that have been reported

    def setup(self, *arguments: Any, **info: Any) -> None:
        self.job.install_handlers()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        record = self.records[trial.trial_id]
        record.state, record.reason, record.code = RUNNING, "", ""
        record.settings = {name: value for name, value in trial.config.items() if name != SHARED}
        self.job.changed(record, False)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        record, search = self.records[trial.trial_id], self.job.search
        note(search, record, result)
        record.clones = result.get("clones") or record.clones
        for line in sorted({*result.get("not_made", ())} - self.not_made):
            self.not_made.add(line)
            self.job.notify(f"{search.name}/{record.name}: {line}")
        if "ended" not in result:  # else `on_trial_complete` follows immediately
            self.job.changed(record, False)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        record, last = self.records[trial.trial_id], trial.last_result or {}
        record.state = ENDS.get(str(last.get("ended")), PRUNED)
        if "reason" in last:
            record.reason, record.code = str(last["reason"]), str(last["code"])
        self.job.changed(record, True)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        record = self.records[trial.trial_id]
        problem = _problem(trial.get_error())
        record.state, record.reason, record.code = FAILED, sentence(problem), problem.code
        self.job.changed(record, True)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        self.job.tick()


class Stop(Unwritten, tune.Stopper):
    """Ends all trials when a stop is requested."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, trial_id: str, result: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.job.stop_requested()


def _problem(error: Any) -> Problem:
    """What ended a trial's actor."""
    if isinstance(error, RayTaskError):
        return Problem("worker-error", reason=f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
    if isinstance(error, RayActorError) and error.actor_init_failed:  # one that never started
        return Problem("worker-error", reason=last_line(error))
    return Problem("lost", reason="its process died (killed, or out of memory)")


def scheduler_of(job: Job, records: Records) -> Any:
    """Tune's scheduler; None for first in, first out."""
    terms = job.search.terms
    options: dict[str, Any] = {"time_attr": "step", "metric": terms["metric"], "mode": terms["mode"]}
    if job.search.confirming:
        return None  # all seeds of a point must make the same number of steps
    if terms["scheduler"] == "asha":
        return Remembering(job, records, **options)
    if terms["scheduler"] not in POPULATION:
        return None
    options |= {"perturbation_interval": interval(job.steps, job.every), "log_config": False}
    return _population(job, options) if terms["scheduler"] == "pbt" else _bandits(job, options)


class Remembering(Unwritten, AsyncHyperBandScheduler):
    """Compares trials with all earlier ones, including those before a resume."""

    def __init__(self, job: Job, records: Records, **options: Any) -> None:
        super().__init__(
            **options,
            max_t=job.steps,
            grace_period=grace(job.steps, job.every),
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
        self.job, self.records = job, records
        for record in job.search.trials:
            if record.state in (FINISHED, PRUNED):
                self.on_trial_add(None, Ended(record.number, {}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        record = trial if isinstance(trial, Ended) else self.records[trial.trial_id]
        for row in self.job.search.folder(record).read_metrics()[0]:
            if self.job.search.terms["metric"] in row:
                super().on_trial_result(tune_controller, trial, row)


class Accepting:
    """Adapts Tune's populations. They reject every searcher, since most learn from results; ours only hands out the
    trials. A trial that has made its last step is not replaced by a clone, as nothing would be gained.

    A clone is not compared again before it reaches the step that it left: otherwise it would be reset to the same
    checkpoint forever while the other trial waits for its turn, as the trial that is behind gets the turn."""

    last_step = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
        left: dict[str, int] = self.__dict__.setdefault("left", {})
        if result["step"] >= self.last_step or result["step"] <= left.get(trial.trial_id, 0):
            return "CONTINUE"
        self.seen = int(result["step"])
        return super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        self.__dict__.setdefault("left", {})[trial.trial_id] = self.seen
        super()._exploit(tune_controller, trial, trial_to_clone)  # type: ignore[misc]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)  # type: ignore[misc]


class Population(Unwritten, Accepting, PopulationBasedTraining):
    """Moves settings by our own rules: never out of their ranges."""


def _population(job: Job, options: Mapping[str, Any]) -> Population:
    chance = random.Random(job.search.terms["seed"])
    population = Population(**options, custom_explore_fn=lambda config: {**config, **job.space.moved(config, chance)})
    population.last_step = job.steps
    return population


def _bandits(job: Job, options: Mapping[str, Any]) -> Any:
    from ray.tune.schedulers.pb2 import PB2  # requires scikit-learn

    class Bandits(Unwritten, Accepting, PB2):
        """Moves settings by a Gaussian process fitted to all trials."""

    ranges = {name: domain for name, domain in job.space.domains.items() if isinstance(domain, Range)}
    bandits = Bandits(
        **options,
        hyperparam_bounds={name: [domain.low, domain.high] for name, domain in ranges.items()},
        custom_explore_fn=lambda config: {
            **config,
            **{name: domain.clipped(config[name]) for name, domain in ranges.items()},
        },
    )
    bandits.last_step = job.steps
    return bandits


class Ended(TrialRecord):
    """An earlier trial, with the attributes that a scheduler uses."""

    stub = False

    @property
    def trial_id(self) -> str:
        return f"ended-{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        return {}


def grace(steps: int, every: int) -> int:
    """asha: the minimum number of steps of every trial."""
    return max(every, -(-steps // int(REDUCTION**RUNGS)))


def interval(steps: int, every: int) -> int:
    """pbt: steps between two comparisons of trials."""
    return max(every, math.ceil(steps / POPULATION_MOVES / every) * every)
