"""A trial of a search: an ordinary run, carried out for Ray Tune, in its actor or by workers in its placement group.

Tune asks for one report after another (`step`); between two of them the run is paused, so that a stopped or cloned
trial is at the step of its last report. What Tune keeps as a checkpoint is the name of one in the run's folder.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from cluster.backend.actors import ActorGroup
from cluster.backend.supervisor import WorkerLost, supervise
from cluster.backend.worker import write_to
from cluster.ranking.leaderboard import NO_METRIC
from cluster.terminal.progress import Progress, Silence
from cluster.training.given_settings import with_changes
from trainers.base.errors import FAILED, NotStarted, Stopped, Transient, TroupeError, of_worker
from trainers.base.paths import TRIALS
from trainers.base.problems import Problem, sentence
from trainers.base.timeouts import WAITS
from trainers.drawing.decoration import EVENTS, Decorations
from trainers.engine.control import Control
from trainers.families import registry
from trainers.run import Plan, run
from trainers.run_folders import bucket
from trainers.run_folders.mirror import retry
from trainers.run_folders.run_folder import STOP_FILE, RunFolder, start_line
from trainers.storage import checkpoint

SHARED = "search"  # the key of a trial's configuration that is the same for all trials: no setting has this name


class Trial(tune.Trainable):
    """One actor, for one trial after another. `config` holds the searched settings, and SHARED.

    A trial ends with a report that holds `ended`: finished, stopped or failed, and why. After an error that is not a
    TroupeError the actor exits before the next trial, as its state is unknown.
    """

    shared: Mapping[str, Any]
    folder: RunFolder
    bucket_here: bucket.Bucket | None  # the bucket of the trial, from which this node fetched it
    thread: threading.Thread | None
    reports: queue.Queue[dict[str, Any]]
    last: dict[str, Any]  # everything reported for the trial
    bucket_checked_at: float  # when the bucket was last asked for a stop
    unreported: dict[str, Any] | None  # the newest row with the metric that has not been reported yet
    mistake: TroupeError | None

    def setup(self, config: dict[str, Any]) -> None:
        self.group: KeptGroup | None = None
        self.sick = False
        self.warm = False
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._finish()
        if self.sick:
            os._exit(1)  # Tune uses another actor for the next trial
        if not self.warm:
            self.warm = True
            gc.collect()
            gc.freeze()  # imported modules stay: collecting them after each trial takes longer than a short trial
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next report: a row with the metric and its `step`, or how the trial ended."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()
        else:
            self.going_on.set()
        report = self._next_report()
        if "ended" in report:
            self.thread.join()
        self.last = {**self.last, **report}
        return {**self.last, "done": "ended" in report}

    def _next_report(self) -> dict[str, Any]:
        """Wait for it; a stop of the search does not wait for the next report, which may take long."""
        while True:
            try:
                return self.reports.get(timeout=WAITS.poll_stop)
            except queue.Empty:
                if self._stop_is_requested():
                    self._request_stop()

    def _stop_is_requested(self) -> bool:
        stop = self.folder.path.parents[1] / STOP_FILE
        if stop.exists() or self.stopping:
            return True
        if self.bucket_here is None or time.monotonic() - self.bucket_checked_at < WAITS.poll_stop_in_bucket:
            return False
        self.bucket_checked_at = time.monotonic()
        return self.bucket_here.has(stop)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        if self.bucket_here is not None:
            name = self._newest_in_bucket(self.bucket_here)
        else:
            newest = checkpoint.newest_intact(self.folder.checkpoints)
            name = newest.name if newest else None
        return {"trial": self.folder.path.name, "checkpoint": name}

    def _newest_in_bucket(self, remote: bucket.Bucket) -> str | None:
        """The newest checkpoint in the bucket, once it is that of the last report: others can continue from it."""
        started = time.monotonic()
        while True:
            saved = retry(lambda: remote.saved(self.folder.path))
            reached = checkpoint.position_of(saved[-1])[0] if saved else -1
            if reached >= self.last["step"] or time.monotonic() - started > WAITS.checkpoint_sent:
                return saved[-1] if saved else None
            time.sleep(WAITS.poll_stop)

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Continue from another trial's checkpoint; its own newest one is used without this."""
        if checkpoint and checkpoint["trial"] != self.folder.path.name:
            donor = RunFolder(self.folder.path.with_name(checkpoint["trial"]))
            varied = {name: value for name, value in self.config.items() if name != SHARED}
            try:
                self._fetch(self.folder, donor)
                families = tuple(map(Path, self.shared["families"]))
                clone = take_over(self.folder, donor, checkpoint["checkpoint"], varied, families)
                if (remote := self.bucket_here) is not None:
                    retry(lambda: remote.send(self.folder.path), self._raise_if_stopped)
                    retry(lambda: remote.remove_checkpoints(self.folder.path, clone), self._raise_if_stopped)
            except TroupeError as error:
                self.mistake = error

    def _fetch(self, *folders: RunFolder) -> None:
        """Fetch trials to this node if they are in a bucket."""
        if (remote := self.bucket_here) is not None:
            for folder in folders:
                retry(partial(remote.fetch_idle, folder.path, checkpoints=True), self._raise_if_stopped)

    def _raise_if_stopped(self) -> None:
        """Called between tries. Raises NotStarted if a stop was requested."""
        if self._stop_is_requested():
            raise NotStarted

    def cleanup(self) -> None:
        self._finish()
        if self.group is not None:
            self.group.kill()

    def _take(self, config: Mapping[str, Any]) -> None:
        """Take the next trial; its run starts when a report is requested."""
        self.shared = config[SHARED]
        path, address = Path(self.shared["folder"], TRIALS, self.trial_name), self.shared["bucket"]
        self.folder = RunFolder(bucket.local_folder(path, address) if address else path)
        self.bucket_here = bucket.bucket_of_run(self.folder.path) if address else None
        self.reports = queue.Queue()
        self.going_on = threading.Event()
        self.thread = None
        self.stopping = False
        self.control: Control | None = None
        self.bucket_checked_at = time.monotonic()
        self.last = {"step": 0}
        self.clones: list[dict[str, Any]] = []
        self.unreported = None
        self.mistake = None
        self.decorations = Decorations(lambda line: None)  # the driver of the search reports them

    def _finish(self) -> None:
        """Let a running run save and end."""
        if self.thread is not None and self.thread.is_alive():
            self._request_stop()
            self.thread.join()

    def _request_stop(self) -> None:
        self.stopping = True
        if self.control is not None:
            self.control.stop_requested = True
        self.going_on.set()

    def _run(self) -> None:
        """The complete run, in a thread; its last report says how it ended."""
        try:
            if self.mistake is not None:
                raise self.mistake
            self._fetch(self.folder)
            plan = Plan.of(self.folder, Path(self.shared["data_dir"]), tuple(map(Path, self.shared["families"])))
            plan = replace(plan, bucket=self.shared["bucket"])
            self.clones = list(plan.facts.get("clones", ()))
            varied = {name: value for name, value in self.config.items() if name != SHARED}
            with self.decorations.making(EVENTS):
                from trainers.drawing.event_file import EventFile  # imports torch, which the driver does not need

                EventFile(self.folder.path, 0, ".settings").settings(varied, self.shared["metric"])
            with self.folder.driven(patience=10):
                result = self._run_locally(plan) if int(plan.settings["workers"]) == 1 else self._run_in_workers(plan)
            ended: dict[str, Any] = {
                "ended": "finished",
                "step": result["steps"],
                "result": result,
                "not_made": [*self.decorations.not_made, *result["not_made"]],
            }
            if self.shared["metric"] in result["metrics"]:
                ended[self.shared["metric"]] = result["metrics"][self.shared["metric"]]
        except Stopped:
            ended = {"ended": "stopped"}
        except TroupeError as error:
            how = "stopped" if isinstance(error, Transient) else "failed"
            problem = replace(error.problems[0], resumes=False)  # its search can be resumed, not the trial
            ended = {"ended": how, "reason": sentence(problem), "code": problem.code}
        except Exception as error:
            self.sick = True
            problem = of_worker(0, error, self.folder.log(0)).problems[0]
            ended = {"ended": "failed", "reason": sentence(problem), "code": problem.code}
        if self.bucket_here is not None:
            with contextlib.suppress(TroupeError):
                self.bucket_here.fetch(self.folder.path)  # files written by workers on other nodes
                self.bucket_here.send(self.folder.path)
        self.reports.put({"clones": self.clones, **ended})

    def _run_locally(self, plan: Plan) -> dict[str, Any]:
        """The run in this process."""
        from trainers.distributed.process_group import World

        self.folder.make_parts()
        log = self.folder.log(0)
        write_to(log)
        print(start_line(0, 1), flush=True)
        self.folder.note_start(1)
        self.control = Control(report=self._report, on_step_end=self._pause)
        self.control.stop_requested = self.stopping
        try:
            return run(plan, World(), self.control)
        except Exception:
            traceback.print_exc()
            raise

    def _run_in_workers(self, plan: Plan) -> dict[str, Any]:
        """The run in workers in the other bundles of the trial's placement group, which are kept for the next trial."""
        self.folder.make_parts()
        settings = plan.config()

        def start(lost: WorkerLost | None) -> KeptGroup:
            if self.group is not None and self.group.alive:
                self.group.start_run(plan, self.shared["metric"])
            else:
                self.group = KeptGroup(
                    plan, self.shared["runtime_env"], get_current_placement_group(), self.shared["metric"]
                )
            return self.group

        return supervise(
            start,
            settings.max_restarts,
            settings.worker_timeout,
            lambda: self.stopping,
            Progress(Silence()),
            self._report,
            self._pause,
            self.folder.note_restart,
        )

    def _report(self, step: int, row: Mapping[str, float]) -> None:
        """A row of the run. Raises TroupeError if it should hold the metric and does not: no later row will."""
        metric: str = self.shared["metric"]
        if metric in row:
            self.unreported = {"step": step, **row}
            return
        evaluation = any(name.startswith("eval_") for name in row)
        if evaluation if metric.startswith("eval_") else "samples_per_second" in row:
            known = sorted({*row, *self.shared["metrics"]} - {"step", "seconds"})
            raise TroupeError(Problem(NO_METRIC, reason=f"reports no {metric}", hint=f"available: {', '.join(known)}"))

    def _pause(self, step: int) -> None:
        """After a step is recorded: report its row, and wait for Tune to ask for the next one."""
        if self.unreported is not None and not self.stopping:
            self.going_on.clear()
            report, self.unreported = {**self.unreported, "clones": self.clones}, None
            self.reports.put(report)
            self.going_on.wait()


class KeptGroup(ActorGroup):
    """Workers that carry out one run after another, as long as none of them is lost."""

    alive = True

    def end(self) -> None:
        if len(self.ended) < self.size or any(isinstance(outcome, WorkerLost) for outcome in self.ended.values()):
            self.kill()

    def kill(self) -> None:
        self.alive = False
        super().end()


def take_over(
    folder: RunFolder,
    donor: RunFolder,
    checkpoint_name: str | None,
    varied: Mapping[str, Any],
    families: Sequence[Path] = (),
) -> str:
    """Let a trial continue from another one's checkpoint with its own settings. Returns the name of the copy.

    If the wanted checkpoint has been removed meanwhile, the donor's newest complete one is used. Raises TroupeError if
    it has none: a clone never starts at step 0.
    """
    with folder.lock(patience=10), checkpoint.writing_checkpoint(folder.path):
        own_checkpoints = checkpoint.all_in(folder.checkpoints)
        copy = _copied(folder, donor, checkpoint_name)
        stored = folder.read_settings()
        before = stored["settings"]
        clone = {
            "from": donor.path.name,
            "step": checkpoint.position_of(copy.name)[0],
            "left": checkpoint.position_of(own_checkpoints[-1].name)[0] if own_checkpoints else 0,
            "changed": {name: [before[name], value] for name, value in varied.items() if before[name] != value},
        }
        stored |= {"settings": {**before, **varied}, "clones": [*stored.get("clones", ()), clone]}
        if recipe := stored.get("recipe"):
            kind = registry.class_of_run(stored, folder.name, families)
            stored["recipe"] = with_changes(recipe, varied, kind, families)
        folder.write_settings(stored)
        for old in own_checkpoints:
            if old != copy:
                checkpoint.remove_checkpoint(old)
        folder.result.unlink(missing_ok=True)
    return copy.name


def _copied(folder: RunFolder, donor: RunFolder, checkpoint_name: str | None) -> Path:
    """A complete copy of a donor's checkpoint; the donor runs on meanwhile and may remove what is being copied."""
    for _ in range(3):
        named = donor.checkpoints / checkpoint_name if checkpoint_name else None
        source = named if named is not None and named.is_dir() else checkpoint.newest_intact(donor.checkpoints)
        if source is None:
            break
        copy = checkpoint.clone(source, folder.checkpoints)
        if checkpoint.damage_of(copy) is None:
            return copy
        checkpoint.remove_checkpoint(copy)
        checkpoint_name = None
    reason = f"{donor.name} has no complete checkpoint to continue from"
    raise TroupeError(Problem("no-checkpoint", folder.name, reason), FAILED)
