"""The driver of a search: it creates the trials' folders, runs them with Tune, and keeps search.json up to date."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.backend import nodes
from cluster.backend.connection import Connected, ray_for
from cluster.backend.local_ray import LocalRay
from cluster.backend.supervisor import CLEANED, RAY
from cluster.host import requirements
from cluster.host.requirements import needs
from cluster.host.signals import signals
from cluster.ranking import confirmation
from cluster.ranking.confirmation import FIRST
from cluster.ranking.leaderboard import (
    FAILED,
    FINISHED,
    NO_METRIC,
    OPEN,
    POPULATION,
    PRUNED,
    RUNNING,
    Search,
    StopReason,
    TrialRecord,
)
from cluster.requests.models import SearchRequest
from cluster.searching import run_tune, samplers
from cluster.searching.prepare_search import PreparedSearch, compare_by
from cluster.searching.tune_job import Dead, Job
from cluster.terminal.progress import Progress, about_trials, duration, size
from cluster.training.given_settings import naming_recipe, with_changes
from trainers.base.errors import FAILED as RUN_FAILED
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem, sentences, show_value
from trainers.base.timeouts import WAITS
from trainers.families import registry
from trainers.run import description, open_for
from trainers.run_folders import bucket
from trainers.run_folders.mirror import retry
from trainers.run_folders.run_folder import SAVED, STOP_FILE
from trainers.run_folders.sync_state import bytes_of
from trainers.settings.config import Config
from trainers.settings.fields import plain
from trainers.storage import atomic_files, checkpoint

SPARE = 64 << 20  # bytes to keep free on the disk


class DataFacts:
    """What a trial's folder stores about its data."""

    def __init__(self, data: Any) -> None:
        self.fingerprint, self.facts = data.fingerprint, plain(data.facts)


@dataclass(frozen=True)
class RayLoss:
    """Why Ray has to be started again."""

    kind: str  # RAY: it died; CLEANED: one of its files was deleted
    why: str
    seen: float


class Driver:
    """One running search."""

    def __init__(self, search: Search, prepared: PreparedSearch, command: SearchRequest, progress: Progress) -> None:
        self.search, self.prepared, self.command, self.progress = search, prepared, command, progress
        self.proposals = samplers.sampler_of(search, prepared.space)
        self.data: dict[tuple[Any, ...], DataFacts] = {}
        self.started, self.before = time.monotonic(), float(search.terms["seconds"])
        self.since: dict[int, float] = {}  # when the time of each running trial was last updated
        self.stops: dict[StopReason, str] = {}  # with an explanation of each
        self.ray: Connected | LocalRay = Connected()  # another one while trials run
        self.ray_loss: RayLoss | None = None
        self.error: TroupeError | None = None  # ends the search immediately
        self.notified = False  # whether the trials were told to stop
        self.lasted = 0.0  # when the record was last made durable
        self.disk_checked_at = 0.0
        self.at_once = 1
        self.bucket = bucket.bucket_of_run(search.path)  # through which trials on other nodes exchange files
        self.forgotten: set[int] = set()  # trials whose checkpoints are removed
        self.staying: set[int] = set()  # trials with a checkpoint that cannot be removed

    # Called by Tune

    def next_trial(self) -> TrialRecord | None:
        """The next trial, with its folder; trials that cannot be created count as failed."""
        while (record := self.proposals.next()) is not None:
            try:
                self._make(record)
                return record
            except bucket.Unreachable as error:
                hint = f"resume with `troupe search --resume {self.search.name}`"
                problems = [replace(problem, hint=hint) for problem in error.problems]
                self.error = None if self.stop_requested() else TroupeError(problems, error.code)
                return None
            except TroupeError as error:
                record.state, record.reason = FAILED, "; ".join(sentences(error.problems))
                record.code = error.problems[0].code
                self.changed(record, True)
        return None

    def changed(self, record: TrialRecord, ended: bool) -> None:
        """Write the record after a trial has changed, and report a trial that has ended."""
        now = time.monotonic()
        record.seconds += now - self.since.get(record.number, now)
        self.since[record.number] = now
        self.search.terms["seconds"] = round(self.before + now - self.started, 1)
        if ended:
            self.since.pop(record.number, None)
            if record.state == FINISHED and record.value is None:
                record.state = FAILED
                if not record.reason:
                    record.code = NO_METRIC
                    record.reason = f"reports no {self.search.terms['metric']}: it evaluates nothing"
            if record.code == NO_METRIC and not self.search.ranked():  # no other trial will report it either
                self.stops[StopReason.NO_METRIC] = record.reason
            if record.state in (FINISHED, PRUNED, FAILED):
                self.proposals.ended(record)
            self._keep_best()
            self.progress.notify(self.line(record))
        lasting = ended and now - self.lasted > WAITS.lasting_record
        self.lasted = now if lasting else self.lasted
        self.search.write(lasting)

    def tick(self) -> None:
        """Called regularly: update the progress line; check Ray, the time budget and the disk."""
        self.progress.doing(self.state())
        now = time.monotonic()
        self._check_ray(now)
        budget = None if self.command.time_budget is None else 60 * self.command.time_budget
        if budget is not None and now - self.started > budget and StopReason.TIME_BUDGET not in self.stops:
            over = self.stops[StopReason.TIME_BUDGET] = f"the time budget of {duration(budget)} is used up"
            self.progress.notify(f"{over}: saving running trials")
        if now - self.disk_checked_at > WAITS.poll_disk:
            self.disk_checked_at = now
            self._check_disk()

    @property
    def cleaned(self) -> bool:
        return self.ray_loss is not None and self.ray_loss.kind == CLEANED

    def _check_ray(self, now: float) -> None:
        """Raise Dead if nothing can be saved before Ray is restarted, or if the search ends."""
        died = ""
        try:
            died = self.ray.died()
        except TroupeError as error:
            self.error = error
        if not self.cleaned and (missing := self.ray.missing()):
            self.ray_loss = RayLoss(CLEANED, missing, now)
            self.progress.notify(f"{missing}: saving first")
        if died and self.ray_loss is None:
            self.ray_loss = RayLoss(RAY, died, now)
        late = self.ray_loss is not None and now - self.ray_loss.seen > WAITS.saves_for_new_ray
        if died or late or self.error is not None:
            raise Dead

    def request_stop(self) -> None:
        self.stops[StopReason.REQUESTED] = "stopped and saved"

    def stop_requested(self) -> bool:
        """Also notifies the trials, which otherwise check only after their next report."""
        if not self.notified and (self.search.path / STOP_FILE).exists():  # by `troupe stop`
            self.request_stop()
        stop = bool(self.stops) or self.cleaned
        if stop and not self.notified:
            self.notified = True
            (self.search.path / STOP_FILE).touch()
            if self.bucket is not None:
                self.bucket.send_file(self.search.path / STOP_FILE)
            if StopReason.REQUESTED in self.stops:
                self.progress.notify("stopping: saving first")
        return stop

    def resume_trials(self) -> None:
        """After a restart of Ray: running trials continue from their checkpoints."""
        self.ray_loss, self.notified = None, False
        self.withdraw_stop()
        self.proposals = samplers.sampler_of(self.search, self.prepared.space)

    def confirm(self) -> bool:
        """After all trials have ended: add those of the next look of `--confirm`; returns whether there are any."""
        search, seeds = self.search, self.search.terms["seeds"] or [self.prepared.config.seed]
        if any(trial.state in OPEN for trial in search.trials):  # to be resumed first
            return False
        asked = search.terms.get("confirmation")
        added = confirmation.advance(search, seeds)
        if asked is not None and not search.confirming:
            self.progress.notify(f"{search.name}: nothing to confirm: fewer than 2 points were completed with a value")
        if added:
            count = len({trial.repeats for trial in added})
            numbers = ", ".join(str(seed) for seed in sorted({trial.settings["seed"] for trial in added}))
            self.progress.notify(f"{search.name}: confirming the best {count} points with seeds {numbers}")
            self.proposals = samplers.sampler_of(search, self.prepared.space)
            search.write(lasting=True)  # before any of their folders is made
        return bool(added)

    def withdraw_stop(self) -> None:
        """Withdraw the stop request to the trials."""
        (self.search.path / STOP_FILE).unlink(missing_ok=True)
        if self.bucket is not None:
            self.bucket.remove_file(self.search.path / STOP_FILE)

    # Progress texts

    def state(self) -> str:
        """`7/20 trials, 2 running, best eval_accuracy 0.934 (0004), 3m05s left`."""
        trials = self.search.trials
        done = [trial for trial in trials if trial.state not in OPEN]
        total = max(len(trials), self.search.requested)
        parts = [
            f"{len(done)}/{total} trials",
            f"{min(self.at_once, sum(trial.state == RUNNING for trial in trials))} running",
        ]
        ranked = self.search.ranked()
        if ranked:
            parts.append(f"best {self.search.terms['metric']} {ranked[0].value:.4g} ({ranked[0].name})")
        times = [trial.seconds for trial in done if trial.state in (FINISHED, PRUNED)]
        if times:
            remaining = sum(times) / len(times) * (total - len(done)) / self.at_once
            spent = sum(trial.seconds for trial in trials if trial.state == RUNNING) / self.at_once
            parts.append(f"about {duration(max(1.0, remaining - spent))} left")
        return ", ".join(parts)

    def line(self, record: TrialRecord) -> str:
        """One ended trial, in one line."""
        settings = " ".join(f"{name}={show_value(value)}" for name, value in record.settings.items())
        where = f"{self.search.name}/{record.name}"
        if record.state == FAILED:
            return f"{where}: failed: {record.reason} ({settings})"
        best = self.search.ranked()[:1]
        value = "no value" if record.value is None else f"{self.search.terms['metric']} {record.value:.4g}"
        crown = ", the best so far" if best and best[0] is record else ""
        state = f" {record.state} at step {record.step}," if record.state != FINISHED else ""
        if record.reason:
            return f"{where}:{state} {record.reason} ({settings})"
        worry = f"; {record.worry}" if record.worry else ""
        return f"{where}:{state} {value}{crown}, after {duration(record.seconds)} ({settings}){worry}"

    # Parts of the work

    def _make(self, record: TrialRecord) -> None:
        """Create a trial's folder, as that of a run that has not started. Raises TroupeError for wrong settings."""
        terms, folder = self.search.terms, self.search.folder(record)
        if folder.settings.exists():
            record.steps = int(folder.read_settings()["settings"]["steps"])
            return
        config, problems = self.prepared.kind.from_words({**terms["fixed"], **record.settings}, terms["family"])
        if config is None:
            raise TroupeError(problems, USAGE)
        config = config.model_copy(update=requirements.resolve(config, own_machine=not self.command.address))
        config = self.resolved(config)
        record.steps = config.steps
        with checkpoint.writing_checkpoint(self.search.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.make_parts()
            described = description(terms["family"], config, self.data_facts(config), self.command.families)
            folder.write_settings({**described, **self._recipe_of(record)})
        if (remote := self.bucket) is not None:
            retry(lambda: remote.send(folder.path), self._refuse_to_wait)

    def _recipe_of(self, record: TrialRecord) -> dict[str, Any]:
        """What a trial stores of the search's recipe: what all trials change, and what is searched."""
        recipe = self.search.terms.get("recipe")
        if recipe is None:
            return {}
        return {"recipe": with_changes(recipe, record.settings, self.prepared.kind, self.command.families)}

    def _refuse_to_wait(self) -> None:
        """Raise bucket.Unreachable if no more trials are to be started."""
        if self.stop_requested():
            raise bucket.Unreachable(Problem("stopped", reason="a stop was requested"))

    def data_facts(self, config: Config) -> DataFacts:
        """The data of a trial; opened once for all trials that use the same."""
        key = tuple(
            getattr(config, name, "auto") for name in ("data", "image_size", "evaluate_on", "folders", "value_range")
        )
        if key not in self.data:
            with naming_recipe(self.prepared.origins):
                data = open_for(
                    config, self.command.data_dir, self.command.families, self.progress.notify, self.progress.packing
                )
            self.data[key] = DataFacts(data)
        return self.data[key]

    def resolved(self, config: Config) -> Config:
        """Resolve a config with the data, and evaluate and save as often as the scheduler requires."""
        facts = self.data_facts(config).facts
        if problems := config.data_problems(facts):
            raise TroupeError(problems, USAGE)
        requested, config = config.evaluate_every, config.finalize(facts)
        scheduler = self.search.terms["scheduler"]
        changes: dict[str, Any] = {}
        every = int(config.evaluate_every)
        if scheduler != "fifo" and requested == "auto" and config.metrics:
            every = changes["evaluate_every"] = max(1, min(every, math.ceil(config.steps / 10)))
        if scheduler in POPULATION:
            changes["checkpoint_every"] = every  # each report has a checkpoint, from which other trials can continue
        return config.model_copy(update=changes)

    def _keep_best(self) -> None:
        """Keep the checkpoints of only the best `keep_best` trials that have ended."""
        most = self.search.terms["keep_best"]
        if most is not None:
            for record in self._ended_with_checkpoints(self.bucket is not None)[most:]:
                self._forget(record, self.bucket is not None)

    def _ended_with_checkpoints(self, in_bucket: bool) -> list[TrialRecord]:
        """Ended trials that have checkpoints on this machine's disk, or (`in_bucket`) may have some in the bucket: the
        best first, those without a value last."""
        return [
            trial
            for trial in self.search.in_order()
            if trial.state in (FINISHED, PRUNED, FAILED)
            and trial.number not in self.forgotten | self.staying
            and (in_bucket or checkpoint.all_in(self.search.folder(trial).checkpoints))
        ]

    def _forget(self, record: TrialRecord, in_bucket: bool) -> None:
        """Remove a trial's checkpoints from this machine's disk, and (`in_bucket`) from the bucket."""
        folder = self.search.folder(record)
        if stay := [path for path in checkpoint.all_in(folder.checkpoints) if not checkpoint.remove_checkpoint(path)]:
            self.staying.add(record.number)
            self.progress.notify(f"{stay[0]}: not recognized as a checkpoint of troupe, or damaged; kept")
        if in_bucket and self.bucket is not None:
            self.forgotten.add(record.number)
            with contextlib.suppress(bucket.Unreachable):
                self.bucket.remove_checkpoints(folder.path)
                self.bucket.fetch(folder.path)  # to know how much is there now

    def _check_disk(self) -> None:
        """Free space if the disk or the budget is nearly full; if nothing can be removed, report it and stop."""
        free = shutil.disk_usage(self.search.path).free
        budget = None if self.command.disk_budget is None else 1e9 * self.command.disk_budget
        used = bytes_of(self.search.path) if budget is not None else 0
        while free < SPARE or (budget is not None and used > budget):
            no_space = free < SPARE  # removing from a bucket frees no space on the disk
            in_bucket = self.bucket is not None and not no_space
            ended = self._ended_with_checkpoints(in_bucket)[0 if self.bucket is not None and no_space else 1 :]
            what = "the disk" if no_space else f"the disk budget of {size(budget or 0)}"
            if not ended:
                full = f"{what} is full, and only running trials and the best one have checkpoints"
                self.stops[StopReason.DISK_FULL] = full
                self.progress.notify(f"{full}: stopping; free some space, then resume with --resume {self.search.name}")
                return
            self._forget(ended[-1], in_bucket)
            self.progress.notify(
                f"{what} is nearly full: removing the checkpoints of {self.search.name}/{ended[-1].name}"
            )
            free = shutil.disk_usage(self.search.path).free
            used = bytes_of(self.search.path) if budget is not None else 0


def takes(search: Search, config: Config) -> dict[str, float]:
    """The resources of each worker of a trial; several trials can share a GPU."""
    each = needs(config.model_dump())
    return {**each, **({"GPU": 1 / search.terms["trials_per_gpu"]} if "GPU" in each else {})}


def rooms(each: Mapping[str, float], workers: int, nodes_free: list[Mapping[str, float]]) -> int:
    """How many trials fit at once: each worker fits on one node, those of a trial can be on different nodes."""
    return nodes.worker_capacity(each, nodes_free) // workers


def refuse_other_networks(driver: Driver) -> None:
    """Raise TroupeError (exit code 2) for settings that change the networks if trials take over weights."""
    import torch

    terms, kind, command = driver.search.terms, driver.prepared.kind, driver.command
    family = registry.family_class(terms["family"], command.families)
    problems = []
    for name, domain in driver.prepared.space.domains.items():
        shapes = []
        for value in (domain.probes[0], domain.probes[-1]):
            config, wrong = kind.from_words({**driver.prepared.config.model_dump(), name: value}, terms["family"])
            if config is None:
                raise TroupeError(wrong, USAGE)
            facts = driver.data_facts(config).facts
            with torch.random.fork_rng([]):
                networks = family(config.finalize(facts), facts).networks()
            shapes.append(
                [
                    (part, key, tensor.shape)
                    for part, network in networks.items()
                    for key, tensor in network.state_dict().items()
                ]
            )
        if shapes[0] != shapes[1]:
            reason = "changes the networks, so trials cannot take over each other's weights"
            hint = f"leave it out of --scheduler {terms['scheduler']}"
            problems.append(Problem("settings-conflict", name, reason, hint, str(domain)))
    if problems:
        raise TroupeError(problems, USAGE)


def drive(search: Search, prepared: PreparedSearch, command: SearchRequest, progress: Progress) -> Driver:
    """Carry out the remaining trials. Returns the driver, which knows how the search ended."""
    config = prepared.config
    driver = Driver(search, prepared, command, progress)
    driver.withdraw_stop()
    atomic_files.clear_unfinished(search.path)
    if search.terms["scheduler"] in POPULATION:
        refuse_other_networks(driver)
    longest = driver.resolved(config)
    if note := compare_by(search.terms, command, config, driver.data_facts(config).facts):
        progress.notify(note)
    folders = [*([] if driver.bucket is not None else [search.path]), *command.families]
    with (
        ray_for(config, command.address, False, folders, search.path / "driver.log", job_wide=True) as driver.ray,
        signals(driver.request_stop) as install,  # before this, a signal ends the process
    ):
        _run_trials(driver, _job(driver, longest, install))
    progress.end()
    search.terms["comparison"] = confirmation.comparison_of(search, confirmation.standing(search))
    search.write(lasting=True)
    with contextlib.suppress(OSError):
        saved = StopReason.REQUESTED in driver.stops and (search.path / STOP_FILE).exists()
        driver.withdraw_stop()
        if saved:
            (search.path / STOP_FILE).write_text(SAVED, encoding="utf-8")
    return driver


def _job(driver: Driver, longest: Config, install_handlers: Callable[[], None]) -> Job:
    """What Tune is to carry out, with as many trials at once as fit."""
    search, command, config = driver.search, driver.command, driver.prepared.config
    each = takes(search, config)
    room = rooms(each, config.workers, [node["Resources"] for node in nodes.live_nodes().values()])
    wanted = max(search.requested, FIRST * search.terms.get("confirmation", {}).get("points", 0))
    driver.at_once = max(1, min(room, wanted, search.terms["max_concurrent"] or room))
    about = about_trials(search.terms, driver.at_once, each, config.workers, room)
    driver.progress.notify(f"{search.name}: {about}")
    shared = {
        "folder": str(search.path),
        "data_dir": str(command.data_dir.resolve()),
        "families": [str(path) for path in command.families],
        "metric": search.terms["metric"],
        "metrics": [f"eval_{name}" for name in config.metrics_of(driver.data_facts(config).facts)],
        "runtime_env": dict(driver.ray.runtime_env),
        "bucket": driver.bucket.address if driver.bucket is not None else "",
    }
    return Job(
        search,
        driver.prepared.space,
        driver.next_trial,
        driver.changed,
        install_handlers,
        driver.tick,
        driver.stop_requested,
        shared,
        [each] if config.workers == 1 else [{}, *[each] * config.workers],
        driver.at_once,
        longest.steps,
        int(longest.evaluate_every) or longest.log_every,
        config.max_restarts,
        driver.progress.notify,
    )


def _run_trials(driver: Driver, job: Job) -> None:
    """Run all trials; restart Ray if it is lost. Raises TroupeError if it was lost too often."""
    search, most = driver.search, job.max_restarts
    restarts = 0
    while True:
        run_tune.run_tune_job(job)
        if driver.error is not None:
            raise driver.error
        loss = driver.ray_loss
        if loss is None or StopReason.REQUESTED in driver.stops:
            if not driver.stops and driver.confirm():
                continue
            return
        count = ""
        if loss.kind == RAY:
            if restarts >= most:
                reason = f"{loss.why} (after {restarts} restarts)"
                resume = f"resume with `troupe search --resume {search.name}`"
                raise TroupeError(Problem("lost", search.name, reason, resume), RUN_FAILED)
            restarts += 1
            count = f" (restart {restarts} of {most})"
        driver.progress.notify(f"{loss.why}; resuming from the trials' checkpoints{count}")
        search.terms.setdefault("restarts", []).append({"kind": loss.kind, "why": loss.why})
        driver.ray.restart()
        driver.resume_trials()
