"""Ray Tune, as a search uses it: it starts and stops trials; what they are and how they went, the search itself keeps.

Tune's own snapshots, loggers and tables are off: a search goes on from search.json and the trials' folders.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cluster.backend.nodes import last_line
from cluster.host.environment import environment
from cluster.searching.leaderboard import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    POPULATION,
    PRUNED,
    RUNNING,
    Search,
    TrialRecord,
)
from cluster.searching.space import Range, Space
from trainers.base.problems import Problem, sentence
from trainers.storage import ownership

STORAGE, WHAT = ".tune", "what Ray Tune writes for a search"  # a folder in the search's own, and its mark
REDUCTION = 3  # asha: one of so many goes on at each of its steps (Li et al. 2020, section 3)
RUNGS = 2  # at which trials are compared before their end
POPULATION_MOVES = 10  # pbt: times in a run that a trial may be cloned
VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they keep every trial's configuration for ever
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000000",
    "TUNE_WARN_THRESHOLD_S": "100",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}


class Dead(BaseException):
    """Ray has died. No Exception, for which Tune would tidy up first, and wait for answers that do not come."""


@dataclass
class Job:
    """What Tune needs to carry out a search."""

    search: Search
    space: Space
    next_trial: Callable[[], TrialRecord | None]  # whose folder is made
    changed: Callable[[TrialRecord, bool], None]  # a trial has news; whether it has ended
    begun: Callable[[], None]  # Tune has put a handler of its own for a signal
    tick: Callable[[], None]  # now and then; raises Dead where Ray has died
    stop_requested: Callable[[], bool]
    shared: Mapping[str, Any]  # see cluster.searching.trainable
    bundles: list[dict[str, float]]
    at_once: int
    steps: int  # of the longest trial
    every: int  # steps between reports
    max_restarts: int
    say: Callable[[str], None]


class Unwritten:
    """What Tune is given but need not write into its snapshots, from which nobody goes on."""

    def __reduce__(self) -> Any:
        return dict, ()

    def save(self, path: str) -> None:
        pass


def carry_out(job: Job) -> None:
    """Run all trials that the job thinks of, until there are no more or a stop is asked for."""
    living = job.at_once  # trials that have begun and not ended
    if job.search.told["scheduler"] in POPULATION:
        living = len(job.search.trials)  # all of them, which take turns
    pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(living + 1)}  # else a searcher's trials wait for one another
    ownership.left_behind(job.search.path, f"{STORAGE}-*", WHAT)
    with (
        environment({**VARIABLES, **pending}),
        warnings.catch_warnings(),
        ownership.working_folder(job.search.path / STORAGE, WHAT) as storage,
    ):
        warnings.simplefilter("ignore")
        from ray import tune
        from ray.tune.search import Searcher

        from cluster.searching.trainable import SHARED, Trial

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        search = job.search
        of_id: dict[str, TrialRecord] = {}
        not_made = set[str]()  # that has been told

        class Proposals(Unwritten, Searcher):
            """Gives Tune the search's trials, one by one."""

            def suggest(self, trial_id: str) -> Any:
                record = None if job.stop_requested() else job.next_trial()
                if record is None:
                    return Searcher.FINISHED
                of_id[trial_id] = record
                return {**record.settings, SHARED: dict(job.shared)}

            def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
                pass  # the watcher below is told more

        class Watcher(Unwritten, tune.Callback):
            """Keeps the record of each trial right."""

            def setup(self, *arguments: Any, **info: Any) -> None:
                job.begun()

            def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                record = of_id[trial.trial_id]
                record.state, record.reason, record.code = RUNNING, "", ""
                record.settings = {name: value for name, value in trial.config.items() if name != SHARED}
                job.changed(record, False)

            def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
                record = of_id[trial.trial_id]
                note(search, record, result)
                record.clones = result.get("clones") or record.clones
                for line in sorted({*result.get("not_made", ())} - not_made):
                    not_made.add(line)
                    job.say(f"{search.name}/{record.name}: {line}")
                if "ended" not in result:  # else it is told at once that the trial has ended
                    job.changed(record, False)

            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                record, last = of_id[trial.trial_id], trial.last_result or {}
                ended = last.get("ended")
                record.state = {"finished": FINISHED, "failed": FAILED, "stopped": INTERRUPTED}.get(str(ended), PRUNED)
                if "reason" in last:
                    record.reason, record.code = str(last["reason"]), str(last["code"])
                job.changed(record, True)

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                record = of_id[trial.trial_id]
                problem = _problem(trial.get_error())
                record.state, record.reason, record.code = FAILED, sentence(problem), problem.code
                job.changed(record, True)

            def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
                job.tick()

        class Stop(Unwritten, tune.Stopper):
            """Ends all trials when a stop is asked for."""

            def __call__(self, trial_id: str, result: Any) -> bool:
                return False

            def stop_all(self) -> bool:
                return job.stop_requested()

        scheduler = _scheduler(job, of_id)
        with contextlib.suppress(Dead):
            tune.run(
                Trial,
                name="tune",
                storage_path=str(storage),
                resources_per_trial=tune.PlacementGroupFactory(job.bundles),
                metric=None if scheduler is not None else search.told["metric"],
                mode=None if scheduler is not None else search.told["mode"],
                search_alg=Proposals(),
                scheduler=scheduler,
                num_samples=1 << 30,
                max_concurrent_trials=living,
                reuse_actors=True,
                stop=Stop(),
                callbacks=[Watcher()],
                verbose=0,
                max_failures=job.max_restarts,
                raise_on_failed_trial=False,
                trial_name_creator=lambda trial: of_id[trial.trial_id].name,
                trial_dirname_creator=lambda trial: of_id[trial.trial_id].name,
            )
        for record in of_id.values():
            if record.state == RUNNING:
                record.state = INTERRUPTED
                job.changed(record, True)


def _problem(error: Any) -> Problem:
    """What ended a trial's actor."""
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayTaskError):
        return Problem("worker-error", reason=f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
    if isinstance(error, RayActorError) and error.actor_init_failed:  # one that has never begun
        return Problem("worker-error", reason=last_line(error))
    return Problem("lost", reason="its process died (killed, or out of memory)")


def note(search: Search, record: TrialRecord, row: Mapping[str, Any]) -> None:
    """What a report says of a trial."""
    metric = search.told["metric"]
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


def _scheduler(job: Job, of_id: Mapping[str, TrialRecord]) -> Any:
    """Tune's scheduler; None for first in, first out."""
    search, told = job.search, job.search.told
    asked: dict[str, Any] = {"time_attr": "step", "metric": told["metric"], "mode": told["mode"]}
    match told["scheduler"]:
        case "asha":
            from ray.tune.schedulers import AsyncHyperBandScheduler

            class Remembering(Unwritten, AsyncHyperBandScheduler):
                """Compares trials with all that were, those of before a resume too."""

                def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
                    super().on_trial_add(tune_controller, trial)
                    record = trial if isinstance(trial, Ended) else of_id[trial.trial_id]
                    for row in search.folder(record).read_metrics()[0]:
                        if told["metric"] in row:
                            super().on_trial_result(tune_controller, trial, row)

            asha = Remembering(
                **asked,
                max_t=job.steps,
                grace_period=grace(job.steps, job.every),
                reduction_factor=REDUCTION,
                stop_last_trials=False,
            )
            for record in search.trials:
                if record.state in (FINISHED, PRUNED):
                    asha.on_trial_add(None, Ended(record.number, {}))
            return asha
        case "pbt":
            from ray.tune.schedulers import PopulationBasedTraining

            class Population(Unwritten, Accepting, PopulationBasedTraining):
                """Moves settings as we do: never out of their ranges."""

                last_step = job.steps

            chance = random.Random(told["seed"])
            return Population(
                **asked,
                perturbation_interval=interval(job.steps, job.every),
                log_config=False,
                custom_explore_fn=lambda config: {**config, **job.space.moved(config, chance)},
            )
        case "pb2":
            from ray.tune.schedulers.pb2 import PB2

            bounds: dict[str, Any] = {
                name: [domain.low, domain.high]
                for name, domain in job.space.domains.items()
                if isinstance(domain, Range)
            }

            class Bandits(Unwritten, Accepting, PB2):
                """Moves settings by what a Gaussian process learned of all trials."""

                last_step = job.steps

            return Bandits(
                **asked,
                perturbation_interval=interval(job.steps, job.every),
                log_config=False,
                hyperparam_bounds=bounds,
                custom_explore_fn=lambda config: {**config, **_rounded(job.space, config)},
            )
    return None


class Accepting:
    """Tune's populations refuse every searcher, since most learn from results; ours only hands out the trials. And
    where a trial has made its last step there is nothing to be gained by going on from another one.

    Nor is a clone compared again before it has come to where it was: it would be taken back to the same checkpoint for
    ever, as long as the other one waits for its turn, which comes to the trial that is behind."""

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


class Ended(TrialRecord):
    """A trial of before, as a scheduler knows one."""

    stub = False

    @property
    def trial_id(self) -> str:
        return f"ended-{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        return {}


def grace(steps: int, every: int) -> int:
    """asha: steps that every trial gets."""
    return max(every, -(-steps // int(REDUCTION**RUNGS)))


def interval(steps: int, every: int) -> int:
    """pbt: steps between two looks at who is behind."""
    return max(every, math.ceil(steps / POPULATION_MOVES / every) * every)


def _rounded(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that PB2 thought of, as they can be said."""
    return {name: domain.within(config[name]) for name, domain in space.domains.items() if isinstance(domain, Range)}
