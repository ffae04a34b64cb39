"""Ray Tune, as a search uses it: Tune starts and stops trials; the search itself keeps their settings and results.

Tune's own snapshots, loggers and tables are off: a search resumes from search.json and the trials' folders.
"""

from __future__ import annotations

import contextlib
import logging
import warnings

from cluster.host.environment import environment
from cluster.ranking.leaderboard import INTERRUPTED, POPULATION, RUNNING, TrialRecord
from cluster.searching.tune_job import Dead, Job
from trainers.storage import ownership

STORAGE, WHAT = ".tune", "what Ray Tune writes for a search"  # a folder in that of the search, and its ownership mark
VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they keep every trial's configuration forever
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000000",
    "TUNE_WARN_THRESHOLD_S": "100",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}


def run_tune_job(job: Job) -> None:
    """Run all trials that the job proposes, until there are no more or a stop is requested."""
    search = job.search
    living = job.at_once  # trials that have started and not ended
    if search.terms["scheduler"] in POPULATION:
        living = len(search.trials)  # all trials, which take turns
    pending = {"TUNE_MAX_PENDING_TRIALS_PG": str(living + 1)}  # else a searcher's trials wait for each other
    ownership.remove_stale(search.path, f"{STORAGE}-*", WHAT)
    with (
        environment({**VARIABLES, **pending}),
        warnings.catch_warnings(action="ignore"),
        ownership.working_folder(search.path / STORAGE, WHAT) as storage,
    ):
        from ray import tune

        from cluster.searching import tune_hooks
        from cluster.searching.trainable import Trial

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        records: dict[str, TrialRecord] = {}
        scheduler = tune_hooks.scheduler_of(job, records)
        with contextlib.suppress(Dead):
            tune.run(
                Trial,
                name="tune",
                storage_path=str(storage),
                resources_per_trial=tune.PlacementGroupFactory(job.bundles),
                metric=None if scheduler is not None else search.terms["metric"],
                mode=None if scheduler is not None else search.terms["mode"],
                search_alg=tune_hooks.Proposals(job, records),
                scheduler=scheduler,
                num_samples=1 << 30,
                max_concurrent_trials=living,
                reuse_actors=True,
                stop=tune_hooks.Stop(job),
                callbacks=[tune_hooks.Watcher(job, records)],
                verbose=0,
                max_failures=job.max_restarts,
                raise_on_failed_trial=False,
                trial_name_creator=lambda trial: records[trial.trial_id].name,
                trial_dirname_creator=lambda trial: records[trial.trial_id].name,
            )
        for record in records.values():
            if record.state == RUNNING:
                record.state = INTERRUPTED
                job.changed(record, True)
