"""One run from command to result: create its folder, run it here or on Ray, monitor it, clean up."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.host import requirements
from cluster.host.signals import deferred, signals
from cluster.requests.models import TrainRequest
from cluster.terminal.progress import Progress
from cluster.training import initial_weights
from cluster.training.given_settings import naming_recipe
from cluster.training.prepare_run import PreparedRun, prepare_run
from trainers.base.errors import CONFLICT, FAILED, USAGE, NotStarted, Stopped, TroupeError, of_worker, with_run_name
from trainers.base.problems import Problem
from trainers.engine.control import Control, Report
from trainers.run import Plan, description, open_for, run
from trainers.run_folders import bucket, removal, run_folder
from trainers.run_folders.mirror import retry
from trainers.run_folders.run_folder import SAVED, RunFolder, start_line
from trainers.settings.config import Config
from trainers.storage import atomic_files, checkpoint

PARTS: dict[str, Any] = {  # of every result; those of 0.1.0 lack some
    "name": "", "steps": 0, "seconds": 0.0, "samples_per_second": None, "evaluation_share": 0.0, "watch_share": 0.0,
    "worry": "", "target": None, "metrics": {}, "best": None, "checkpoint": None, "grid": None, "timelapse": None,
    "pictures": [], "not_made": [], "verdict": None,
}  # fmt: skip
SHOWN = ("grid", "timelapse", "checkpoint")  # parts of a result that are files, besides its pictures


TRAINING = threading.Lock()  # held while a run trains in this process


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Raise TroupeError (exit code 4) if a run already trains in this process: it uses torch's default generator."""
    if not TRAINING.acquire(blocking=False):
        hint = "wait until it ends, or start this one in another process"
        raise TroupeError(Problem("held", reason="another run is training in this process", hint=hint), CONFLICT)
    try:
        yield
    finally:
        TRAINING.release()


def launch(command: TrainRequest, progress: Progress, own_process: bool = False) -> dict[str, Any]:
    """Carry out a `train` command. Returns the run's result, with paths that can be opened from here.

    `own_process`: the output of this process belongs to the run and goes to its logs.
    """
    with alone():
        return _launch(command, progress, own_process)


def _launch(command: TrainRequest, progress: Progress, own_process: bool) -> dict[str, Any]:
    prepared = prepare_run(command)
    config = prepared.config
    for note in prepared.notes:
        progress.notify(note)
    if prepared.folder is not None and prepared.finished is not None:
        return _ended_before(prepared.folder, prepared.finished, config, progress)
    with naming_recipe(prepared.origins):
        data = open_for(config, command.data_dir, command.families, progress.notify, progress.packing)
        if problems := config.data_problems(data.facts):
            raise TroupeError(problems, USAGE)
    config = config.finalize(data.facts)
    initial_weights.refuse_unfit(
        prepared.weights, command.init_from, prepared.family, command.families, config, data.facts
    )
    stored = {**description(prepared.family, config, data, command.families), "from": _from(command, prepared)}
    if prepared.recipe is not None:
        stored["recipe"] = prepared.recipe
    del data
    if before := _earlier_data(prepared, stored):
        stored["learned_before"] = before
    folder = prepared.folder
    with contextlib.ExitStack() as stack:
        try:
            if folder is not None:
                stack.enter_context(folder.driven(patience=10))
                _go_on(folder, prepared, stored, command, progress)
            else:
                with deferred():
                    folder = _new_folder(prepared, stored, command)
                stack.enter_context(folder.driven(patience=10))
            return _carried_out(folder, config, stored, prepared, command, progress, own_process)
        except KeyboardInterrupt:
            if folder is not None:
                _clear_up(folder, prepared, NotStarted(), bucket.bucket_for(folder.path.parent))
            raise


def _carried_out(
    folder: RunFolder,
    config: Config,
    stored: Mapping[str, Any],
    prepared: PreparedRun,
    command: TrainRequest,
    progress: Progress,
    own_process: bool,
) -> dict[str, Any]:
    """Carry out a run whose folder is ready and locked."""
    report: Report = command.report or (lambda step, row: None)
    remote = bucket.bucket_for(folder.path.parent)
    plan = Plan(
        prepared.family,
        config.model_dump(),
        folder.path.resolve(),
        command.data_dir.resolve(),
        command.families,
        stored,
        stored["data"],
        remote.address if remote is not None else "",
    )
    for line in _introduction(folder.name, config, stored["facts"], prepared, command):
        progress.notify(line)
    try:
        if remote is not None:
            remote.send(folder.path)  # before workers on other machines look for it
        if config.workers == 1 and not command.address:
            result = _run_locally(plan, progress, own_process, report)
        else:
            result = _on_ray(plan, config, command, progress, own_process, report)
    except TroupeError as error:
        _clear_up(folder, prepared, error, remote)
        if isinstance(error, NotStarted):
            error.problems = [Problem("stopped", folder.name, "stopped", resumes=True)]
        if isinstance(error, Stopped):
            with contextlib.suppress(OSError):
                if folder.stop.exists():
                    folder.stop.write_text(SAVED, encoding="utf-8")
        raise with_run_name(error, folder.name, folder.path.exists())  # noqa: B904
    finally:
        progress.end()
    with contextlib.suppress(OSError):
        folder.resolve_settings_change(trained=True)
        folder.stop.unlink(missing_ok=True)
    if remote is not None:
        retry(lambda: remote.fetch(folder.path))  # files written by workers on other machines
        retry(lambda: remote.send(folder.path))
    return with_paths(result, folder)


def _introduction(
    name: str, config: Config, facts: Mapping[str, Any], prepared: PreparedRun, command: TrainRequest
) -> Iterator[str]:
    """What a run will do and what the user should know of it, one line each."""
    hint = requirements.hint(config) if not command.address else None
    yield f"{name}: {_what(config, prepared)}" + (f"; {hint}" if hint else "")
    yield _samples(config, facts)
    if config.metrics and prepared.config.evaluate_every != 0 and not config.num_held_out(facts):
        yield f"{config.no_held_out_reason(facts)}: nothing is evaluated"
    yield from config.warnings()
    if prepared.folder is None and (faster := requirements.faster_precision(config)):
        yield faster


def with_paths(result: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """A result with paths of its pictures and checkpoint that can be opened from here; the stored one has none."""
    parts = {part: result.get(part) or nothing for part, nothing in PARTS.items()}
    for part in SHOWN:
        if parts.get(part):
            parts[part] = str(folder.path / parts[part])
    parts["restarts"] = folder.read_restarts()
    parts["pictures"] = [str(folder.path / name) for name in parts.get("pictures", ())]
    return {**parts, "folder": str(folder.path)}


def _ended_before(folder: RunFolder, finished: Mapping[str, Any], config: Config, progress: Progress) -> dict[str, Any]:
    """The result of a run that has already finished; its folder stays as it is."""
    ended = f"already finished at step {finished['steps']}; increase steps to continue"
    if finished["steps"] < config.steps:
        ended = f"reached {config.target} at step {finished['steps']}; set target=none to continue"
    progress.notify(f"{folder.name}: {ended}")
    with contextlib.suppress(TroupeError, OSError), folder.lock():  # its driver may have been killed just before
        folder.resolve_settings_change()
    if remote := bucket.bucket_for(folder.path.parent):  # which may have been unreachable when the run ended
        retry(lambda: remote.send(folder.path))
    return with_paths(finished, folder)


def _go_on(
    folder: RunFolder, prepared: PreparedRun, stored: Mapping[str, Any], command: TrainRequest, progress: Progress
) -> None:
    """Update the folder of a resumed run with its current settings. No other process may be working on it."""
    if prepared.stored.get("data") != stored["data"] and not command.allow_changes:
        reason = f"training or held-out samples differ from those of {folder.name}"
        hint = "pass --allow-changes to resume anyway"
        raise TroupeError(Problem("data-differ", "data", reason, hint), CONFLICT)
    with folder.lock(patience=10), checkpoint.writing_checkpoint(folder.path):
        folder.make_parts()
        folder.stop.unlink(missing_ok=True)
        folder.resolve_settings_change()
        if prepared.damaged or "digest" not in prepared.stored:
            folder.write_settings({**prepared.stored, "facts": stored["facts"]})
        if prepared.stored["settings"] != stored["settings"] or command.allow_changes:
            folder.change_settings(stored)
        folder.result.unlink(missing_ok=True)
    current = {**stored["versions"], "convolutions": "torch's own"}  # some processors had others until 0.2.0
    for what, version in prepared.stored.get("versions", {}).items():
        if current.get(what) != version:
            progress.notify(f"{what} was {version} and is {current.get(what)}: the last bits may differ from here on")


def _new_folder(prepared: PreparedRun, stored: Mapping[str, Any], command: TrainRequest) -> RunFolder:
    """Create the folder of a new run, complete with settings and initial weights, or nothing."""

    def fill(folder: RunFolder) -> None:
        if prepared.weights is not None:
            _copy_weights(prepared.weights, folder, command)
        folder.write_settings(stored)

    return run_folder.create(command.runs, prepared.family, command.name, fill)


def _copy_weights(weights: Path, folder: RunFolder, command: TrainRequest) -> None:
    """Copy the weights into a new run's folder, so that it depends on no other files."""
    try:
        source = open(weights, "rb")  # noqa: SIM115
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise TroupeError(Problem("not-read", "--init-from", reason, value=command.init_from), CONFLICT) from error
    with (
        source,
        atomic_files.replacing(folder.path / f"from{weights.suffix}") as temporary,
        open(temporary, "wb") as copy,
    ):
        shutil.copyfileobj(source, copy)


def _clear_up(folder: RunFolder, prepared: PreparedRun, error: TroupeError, remote: bucket.Bucket | None) -> None:
    """After a failure before the first checkpoint: free a new run's name, or restore a resumed run's settings."""
    with contextlib.suppress(TroupeError, OSError), folder.lock(patience=2):  # unless another process has resumed it
        if prepared.folder is not None:
            folder.resolve_settings_change()
        elif error.code == FAILED or folder.read_restarts() or checkpoint.all_in(folder.checkpoints):
            pass  # its logs show the cause, or it can be resumed
        elif removal.discard(folder.path, remote):
            return
        if remote is not None:
            remote.send(folder.path)


def _earlier_data(prepared: PreparedRun, stored: Mapping[str, Any]) -> list[dict[str, str]]:
    """Samples that a resumed run learned from earlier but not now; an evaluation must know of them."""
    if prepared.folder is None:
        return []
    old = prepared.stored
    before: list[dict[str, str]] = list(old.get("learned_before", ()))
    part = old["settings"].get("evaluate_on", "test")
    if (old.get("data"), part) != (stored["data"], stored["settings"]["evaluate_on"]):
        before.append({"data": str(old.get("data")), "evaluate_on": part})
    return before


def _from(command: TrainRequest, prepared: PreparedRun) -> str | None:
    """The name of the run whose weights this one started from."""
    if prepared.folder is not None:
        before: str | None = prepared.stored.get("from")
        return before
    return Path(command.init_from).name if command.init_from else None


def _what(config: Config, prepared: PreparedRun) -> str:
    """A short description of what the run will do."""
    workers = "1 worker" if config.workers == 1 else f"{config.workers} workers"
    if config.min_workers:
        workers = f"{config.min_workers} to {workers}"
    verb = "continuing to" if prepared.folder is not None else "training"
    if prepared.folder is not None and not checkpoint.all_in(prepared.folder.checkpoints):
        verb = "no checkpoint, starting at step 0: training"
    steps = "1 step" if config.steps == 1 else f"{config.steps} steps"
    return f"{verb} {steps} of {config.batch_size} samples with {workers}, grad_sync={config.grad_sync}"


def _samples(config: Config, facts: Mapping[str, Any]) -> str:
    """A short description of the data."""
    names = list(facts.get("class_names", ()))
    listing = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    classes = f", {len(names)} classes ({listing})" if names else ""
    lost = "".join(f"; none of {name} ({why})" for name, why in facts.get("lost_classes", {}).items())
    return f"data={config.data}: {facts['size']} samples, {facts['held_out']} held out{classes}{lost}"


def _run_locally(plan: Plan, progress: Progress, own_process: bool, report: Report) -> dict[str, Any]:
    """Train in this process."""
    from trainers.distributed.process_group import World

    control = Control(progress.notify, report)
    done = threading.Event()
    folder = RunFolder(plan.folder)

    def show() -> None:
        while not done.wait(0.25):
            progress.show(control.progress)
            if os.path.exists(folder.stop):  # does not raise if the disk hangs
                request_stop()

    def request_stop() -> None:
        if not control.stop_requested:
            progress.notify("stopping: saving first")
        control.stop_requested = True

    watcher = threading.Thread(target=show, daemon=True)
    watcher.start()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkpoint.writing_checkpoint(folder.log(0)))
            log = stack.enter_context(open(folder.log(0), "a", 1, "utf-8", "backslashreplace"))
            if own_process:
                stack.enter_context(contextlib.redirect_stdout(log))
                stack.enter_context(contextlib.redirect_stderr(log))
            print(start_line(0, 1), file=log)
            folder.note_start(1)
            try:
                with signals(request_stop):
                    return run(plan, World(), control)
            except TroupeError:
                raise
            except Exception as error:
                with contextlib.suppress(
                    OSError, ValueError
                ):  # a log that cannot be written matters less than the error
                    traceback.print_exc(file=log)
                raise of_worker(0, error, folder.log(0)) from error
    finally:
        done.set()
        watcher.join()


def _on_ray(
    plan: Plan, config: Config, command: TrainRequest, progress: Progress, own_process: bool, report: Report
) -> dict[str, Any]:
    """Train in Ray actors and monitor them."""
    from cluster.backend.actors import ActorGroup, PlacementRequest
    from cluster.backend.connection import ray_for
    from cluster.backend.supervisor import WorkerLost, supervise

    stop_event = threading.Event()

    def stop_requested() -> bool:
        if os.path.exists(stop):
            stop_event.set()  # even if the file is removed later
        return stop_event.is_set()

    folders, stop = [*([] if plan.bucket else [plan.folder]), *plan.families], RunFolder(plan.folder).stop
    log = RunFolder(plan.folder).logs / "driver.log" if own_process else None
    with (
        _random_state_kept(),
        ray_for(
            config, command.address, command.oversubscribe, folders, log
        ) as used,  # before this, a signal ends the process
        signals(stop_event.set),
    ):

        def start(lost: WorkerLost | None) -> ActorGroup:
            if lost is not None and used.unusable():
                used.restart()
            request = PlacementRequest(
                requirements.needs(plan.settings),
                config.least_workers,
                config.workers,
                lost,
                used,
                stop_requested,
                progress.notify,
                command.address is not None,
            )
            return ActorGroup(plan, used.runtime_env, request.granted(), request=request)

        return supervise(
            start,
            config.max_restarts,
            config.worker_timeout,
            stop_requested,
            progress,
            report,
            note=RunFolder(plan.folder).note_restart,
        )


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore Python's random state afterwards: Ray draws from it."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
